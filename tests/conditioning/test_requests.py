"""What a user asks for in words, and the weights that it means."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gmm_diffusion.conditioning import requests
from gmm_diffusion.conditioning.attributes import AttributeTable, attribute_weights
from gmm_diffusion.conditioning.conditioner import Conditioner
from gmm_diffusion.conditioning.requests import Term, parse
from gmm_diffusion.errors import InputError
from gmm_diffusion.mixture import GaussianMixture

OWNER = np.array([0, 0, 1, 2])
CLASS_WEIGHTS = np.array([[0.7, 0.3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)


def conditioner(semantics="mixture", classes=True):
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3 if classes else np.full(30, -1)
    bank = rng.dirichlet(np.ones(4), 30)
    if classes:
        bank = bank * (OWNER[None] == labels[:, None])
        bank = bank / bank.sum(1, keepdims=True)
    return Conditioner(
        mixture=GaussianMixture.create(np.full(4, 0.25), np.eye(4), np.full(4, 0.1), "spherical"),
        embedding=None,
        base=jnp.full(4, 0.25),
        component_class=jnp.asarray(OWNER if classes else np.full(4, -1)),
        class_weights=jnp.asarray(CLASS_WEIGHTS if classes else CLASS_WEIGHTS[:0]),
        bank_weights=jnp.asarray(bank, jnp.float32),
        bank_labels=jnp.asarray(labels),
        semantics=semantics,
    )


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("train", ()),
        ("7", (Term(1.0, "class", 7),)),
        ("class:7", (Term(1.0, "class", 7),)),
        ("component:12", (Term(1.0, "component", 12),)),
        ("1*class:7", (Term(1.0, "class", 7),)),
        ("0.5*class:3+0.5*class:8", (Term(0.5, "class", 3), Term(0.5, "class", 8))),
        ("0.25*3+0.75*component:0", (Term(0.25, "class", 3), Term(0.75, "component", 0))),
        (" 0.5 * class:3 + .5*class:8 ", (Term(0.5, "class", 3), Term(0.5, "class", 8))),
        ("class:3=0.5,class:8=0.5", (Term(0.5, "class", 3), Term(0.5, "class", 8))),
        (" class:3 = .25 , component:0=.75", (Term(0.25, "class", 3), Term(0.75, "component", 0))),
        ("class:7=1", (Term(1.0, "class", 7),)),
        ("like:a.png", (Term(1.0, "like", path="a.png"),)),
        (" features: my rows.npy ", (Term(1.0, "features", path="my rows.npy"),)),
        (
            "0.5 * like:/x/my cat.png + 0.5*class:3",
            (Term(0.5, "like", path="/x/my cat.png"), Term(0.5, "class", 3)),
        ),
        (
            "like:~/a*b.png=0.25,class:8=0.75",
            (Term(0.25, "like", path="~/a*b.png"), Term(0.75, "class", 8)),
        ),
        ("5e-1*1+0.5*2", (Term(0.5, "class", 1), Term(0.5, "class", 2))),
    ],
)
def test_every_form_is_understood(text, terms):
    assert parse(text) == terms


def test_three_thirds_add_to_one():
    assert len(parse("0.3333333*0+0.3333333*1+0.3333334*2")) == 3


@pytest.mark.parametrize(
    "text",
    ["", "seven", "class:", "class:-1", "class:1.5", "component", "0.5class:3+0.5*class:8", "+",
     "class:1+", "0.5**1+0.5*2", "e*1", "train+class:1", "klass:3", "0.5*train+0.5*1",
     "like:", "features:", "0.5*like:a.png+", "likes:a.png", "like:a=b.png", "like:a\nb.png",
     "class:3=0.5,class:8", "class:3=0.5;class:8=0.5", "class:3=half,class:8=0.5", "9" * 5000],
)  # fmt: skip
def test_what_is_no_form_is_refused_with_the_valid_ones(text):
    message = r"sample.condition is '.*'; it must be 'train', 'class:7' \(or '7'\), 'component:12'"
    with pytest.raises(InputError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("0.5*1+0.4*2", "0.9"),
        ("1+2", "2"),
        ("0.5*1", "0.5"),
        ("1.5*1+-0.5*2", "1"),
        ("0*1+1*2", "1"),
        ("class:3=0.5,class:8=0.6", "1.1"),
        ("class:3=0,class:8=1", "1"),
    ],
)
def test_shares_must_be_positive_and_add_to_one(text, total):
    with pytest.raises(InputError, match=f"shares that add to {total}; they must be positive"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class:3", "names class 3; a class must be from 0 to 2"),
        ("0.5*0+0.5*9", "names class 9; a class must be from 0 to 2"),
        ("component:4", "names component 4; a component must be from 0 to 3"),
    ],
)
def test_what_does_not_exist_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        requests.weights(conditioner(), text, 2, 0)


def test_a_class_of_a_model_without_classes_is_refused():
    with pytest.raises(InputError, match="names class 0; a class must be absent: this model"):
        requests.weights(conditioner(classes=False), "0", 2, 0)


@pytest.mark.parametrize("semantics", ["mixture", "example"])
@pytest.mark.parametrize("text", ["train", "1", "component:3", "0.5*class:0+0.5*component:3"])
def test_weights_lie_on_the_simplex(semantics, text):
    weights, labels = requests.weights(conditioner(semantics), text, 7, 0)[:2]
    assert weights.shape == (7, 4)
    assert weights.dtype == np.float32
    assert labels.shape == (7,)
    assert labels.dtype == np.int32
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)


def test_a_class_under_mixture_semantics_is_its_distribution_over_components():
    weights, labels = requests.weights(conditioner(), "class:0", 5, 0, "literal")[:2]
    np.testing.assert_array_equal(weights, np.tile(CLASS_WEIGHTS[:1], (5, 1)))
    assert labels.tolist() == [0] * 5


# What is asked for, and the shares of components that it means.
MEANT = {
    "class:0": CLASS_WEIGHTS[0],
    "0.25*class:0+0.75*class:2": 0.25 * CLASS_WEIGHTS[0] + 0.75 * CLASS_WEIGHTS[2],
    "train": CLASS_WEIGHTS.mean(0),
}


@pytest.mark.parametrize("text", MEANT)
def test_components_are_drawn_as_often_as_they_weigh(text):
    n, w = 6000, MEANT[text]
    asked = requests.weights(conditioner(), text, n, 0)
    assert asked.weights.dtype == np.float32
    np.testing.assert_array_equal(np.sort(asked.weights, 1), np.eye(4)[[3] * n])
    counts = asked.weights.sum(0)
    assert np.all(counts[w == 0] == 0)
    assert stats.chisquare(counts[w > 0], n * w[w > 0] / w.sum()).pvalue > 1e-4
    # The request still names the label that was asked for.
    literal = requests.weights(conditioner(), text, n, 0, "literal")
    np.testing.assert_array_equal(asked.label, literal.label)


def test_components_are_drawn_of_the_banks_weights_where_there_are_no_classes():
    made, n = conditioner(classes=False), 6000
    literal = requests.weights(made, "train", n, 0, "literal").weights
    drawn = requests.weights(made, "train", n, 0).weights
    # Given each row, its component is drawn with that row's probabilities.
    deviation = np.sqrt((literal * (1 - literal)).mean(0) / n)
    assert np.all(np.abs((drawn - literal).mean(0)) < 5 * deviation)
    assert np.all(np.abs(((drawn - literal) * literal).mean(0)) < 5 * deviation)


@pytest.mark.parametrize("text", ["train", "class:1", "0.5*class:0+0.5*component:3"])
def test_no_component_is_drawn_of_examples(text):
    drawn, literal = (
        requests.weights(conditioner("example"), text, 20, 0, component)
        for component in ("drawn", "literal")
    )
    np.testing.assert_array_equal(drawn.weights, literal.weights)


def test_another_way_to_ask_is_refused():
    with pytest.raises(InputError, match="component is 'mean'; it must be drawn or literal"):
        requests.weights(conditioner(), "train", 2, 0, "mean")


def test_a_class_under_example_semantics_is_drawn_from_its_examples():
    made = conditioner("example")
    weights, labels = requests.weights(made, "class:0", 200, 0)[:2]
    own = np.asarray(made.bank_weights)[np.asarray(made.bank_labels) == 0]
    which = np.argmin(np.abs(weights[:, None] - own[None]).sum(-1), axis=1)
    np.testing.assert_allclose(weights, own[which], atol=1e-7)
    # All ten of its examples, about equally often.
    assert np.bincount(which, minlength=10).min() >= 8
    assert labels.tolist() == [0] * 200


def test_a_component_and_its_class():
    weights, labels = requests.weights(conditioner(), "component:3", 3, 0)[:2]
    np.testing.assert_array_equal(weights, np.eye(4)[[3, 3, 3]])
    assert labels.tolist() == [2] * 3
    _, labels = requests.weights(conditioner(classes=False), "component:3", 3, 0)[:2]
    assert labels.tolist() == [-1] * 3


def test_a_blend_is_the_mean_of_its_terms():
    text = "0.25*class:0+0.75*component:3"
    weights, labels = requests.weights(conditioner(), text, 3, 0, "literal")[:2]
    expected = 0.25 * CLASS_WEIGHTS[0] + 0.75 * np.eye(4)[3]
    np.testing.assert_allclose(weights, np.tile(expected, (3, 1)), atol=1e-6)
    # A single class was not asked for, so none can be read off for a consistency.
    assert labels.tolist() == [-1] * 3


def test_a_blend_under_example_semantics_draws_each_term_anew():
    made = conditioner("example")
    weights, _ = requests.weights(made, "0.5*class:0+0.5*class:2", 50, 0)[:2]
    np.testing.assert_allclose(weights[:, :2].sum(1), 0.5, atol=1e-6)
    np.testing.assert_allclose(weights[:, 3], 0.5, atol=1e-6)
    assert len(np.unique(weights[:, 0])) > 5


def test_examples_of_a_file_come_in_turn():
    made, rows = conditioner("example"), np.eye(4)[[3, 0, 1]]
    asked = []

    def weigh(term):
        asked.append((term.kind, term.path))
        return rows

    weights, labels = requests.weights(made, "features:a.npy", 7, 0, weigh=weigh)[:2]
    np.testing.assert_array_equal(weights, rows[[0, 1, 2, 0, 1, 2, 0]])
    assert labels.tolist() == [-1] * 7
    text = "0.25*like:b.png+0.75*component:2"
    weights = requests.weights(made, text, 4, 0, weigh=weigh).weights
    np.testing.assert_allclose(weights, 0.25 * rows[[0, 1, 2, 0]] + 0.75 * np.eye(4)[2], atol=1e-6)
    assert asked == [("features", "a.npy"), ("like", "b.png")]
    # Under mixture semantics each sample is asked for one component of its own row.
    drawn = requests.weights(conditioner(), "features:a.npy", 3, 0, weigh=weigh).weights
    np.testing.assert_array_equal(drawn, rows)


def test_files_are_refused_where_nobody_reads_them():
    with pytest.raises(InputError, match=r"names a file, 'a\.png'; here it must not"):
        requests.weights(conditioner(), "like:a.png", 2, 0)
    with pytest.raises(InputError, match=r"names like:a\.png; this model has no mixture"):
        requests.check(parse("like:a.png"), 0, 0)


@pytest.mark.parametrize("semantics", ["mixture", "example"])
@pytest.mark.parametrize("num", [2, 30, 31])
def test_the_training_marginal_is_balanced_over_classes(semantics, num):
    weights, labels = requests.weights(conditioner(semantics), "train", num, 0)[:2]
    counts = np.bincount(labels, minlength=3)
    assert counts.max() - counts.min() <= 1
    # Each sample's weights are on the components of its own class.
    assert np.all(weights[OWNER[None] != labels[:, None]] == 0)


def test_the_training_marginal_without_classes_is_drawn_from_the_bank():
    made = conditioner(classes=False)
    weights, labels = requests.weights(made, "train", 500, 0, "literal")[:2]
    bank = np.asarray(made.bank_weights)
    assert {tuple(row) for row in weights.tolist()} == {tuple(row) for row in bank.tolist()}
    assert np.all(labels == -1)


@pytest.mark.parametrize("semantics", ["mixture", "example"])
def test_the_seed_decides(semantics):
    made = conditioner(semantics)
    one, again, other = (requests.weights(made, "train", 20, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("semantics", ["mixture", "example"])
@pytest.mark.parametrize("text", ["train", "class:0", "0.5*class:0+0.5*class:1"])
def test_a_sample_does_not_depend_on_their_number(semantics, text):
    few, few_labels = requests.weights(conditioner(semantics), text, 8, seed=3)[:2]
    many, many_labels = requests.weights(conditioner(semantics), text, 20, seed=3)[:2]
    np.testing.assert_array_equal(few, many[:8])
    np.testing.assert_array_equal(few_labels, many_labels[:8])


NAMES = ("Smiling", "Bald")


def with_attributes(laid_out):
    made = conditioner("example")
    bank = np.stack([np.arange(30) % 2, np.zeros(30)], axis=1).astype(np.uint8)
    table = AttributeTable(
        jnp.asarray(bank), jnp.asarray([0.5, 0.1]), NAMES, (NAMES,), laid_out=laid_out
    )
    if laid_out:
        weights = attribute_weights(bank)
        made = made.replace(bank_weights=weights, class_weights=jnp.zeros((0, 4)))
    return made.replace(attributes=table)


def test_attributes_ask_for_training_examples_that_have_them():
    made = with_attributes(laid_out=False)
    asked = requests.weights(made, "Smiling=1, Bald=0", 40, 0)
    assert (asked.attributes == [1, 0]).all()
    odd = np.asarray(made.bank_weights)[1::2]
    assert all(any(np.array_equal(row, own) for own in odd) for row in asked.weights)
    with pytest.raises(InputError, match="no training example has"):
        requests.weights(made, "Bald=1,Smiling=0", 2, 0)


def test_a_mixture_over_attributes_takes_new_sets():
    asked = requests.weights(with_attributes(laid_out=True), "Bald=1,Smiling=0", 3, 0)
    np.testing.assert_allclose(asked.weights, [[0.5, 0, 0, 0.5]] * 3)
    assert (asked.attributes == [0, 1]).all()
    assert (asked.label == -1).all()


def test_the_training_marginal_of_attributes_is_not_balanced():
    asked = requests.weights(with_attributes(laid_out=False), "train", 600, 0)
    # The classes are labels 0, 1, 2 in turn; attributes come with the examples.
    assert abs(asked.attributes[:, 0].mean() - 0.5) < 4 * 0.5 / np.sqrt(600)
    assert asked.label.min() >= 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Smilng=1", "did you mean Smiling"),
        ("Smiling=1,Bald=1", "both Smiling and Bald"),
        ("Smiling=2", "must be 'train'"),
        ("Smiling=1,", "must be 'train'"),
    ],
)
def test_impossible_attributes_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        requests.weights(with_attributes(laid_out=True), text, 2, 0)


def test_models_without_attributes_say_so():
    with pytest.raises(InputError, match="knows no attributes"):
        requests.weights(conditioner(), "Smiling=1", 2, 0)
    with pytest.raises(InputError, match=r"conditioning\.kind attributes"):
        requests.of_attributes(conditioner(), np.zeros((2, 2), np.uint8))
