# CPU:  docker build -t gmm_diffusion .
# GPU:  docker build -t gmm_diffusion --build-arg ACCELERATOR=cuda13 .   (cuda12, or tpu)
# Run:  docker run --rm --gpus all -v "$PWD/runs:/gmm_diffusion/runs" gmm_diffusion \
#           python -m gmm_diffusion.main --config=configs/digits_gmm.py
# CUDA comes as Python packages; the machine needs the driver and NVIDIA's container toolkit. Stop it
# with `docker stop -t 120`, so that the run can save.
FROM python:3.13-slim
WORKDIR /gmm_diffusion
ARG ACCELERATOR=""
# TFDS datasets and TensorBoard; empty leaves them out.
ARG EXTRAS="[data]"
COPY setup.py pyproject.toml README.md LICENSE ./
COPY gmm_diffusion gmm_diffusion
COPY configs configs
COPY launch launch
RUN pip install --no-cache-dir ${ACCELERATOR:+"jax[$ACCELERATOR]"} --editable ".$EXTRAS"
CMD ["python", "-m", "gmm_diffusion.check_env"]
