"""What networks are ranked by: swinging up a pole on a cart, and telling handwritten digits apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weight_agnostic.evaluation import Networks, compute_outputs
from weight_agnostic.genomes import ACTIVATIONS, Genome

GRAVITY, CART, POLE, LENGTH, FRICTION, FORCE = 9.82, 0.5, 0.5, 0.6, 0.1, 10.0
STEP, STEPS, EDGE = 0.01, 1000, 2.4


class SwingUp:
    """A pole hangs from a cart, and is to be swung up and held by pushing the cart.

    Observed are the position of the cart and its velocity, cosine and sine of the angle of the pole, which is 0 when it
    stands, and its angular velocity. The output, in -1..1, is the force in tens of newtons. Every step of 0.01 s
    rewards with (cos(angle) + 1) / 2 * cos(pi * position / 4.8), after it was taken. An episode ends after 1,000 steps,
    or when the cart is further than 2.4 m from the middle.

    Args:
        episodes: Number of episodes at each value, which start at random; the same for all networks and values.
    """

    inputs, outputs = 5, 1
    activations = tuple(range(len(ACTIVATIONS)))

    def __init__(self, episodes: int):
        self.episodes = episodes

    def reward(self, genomes: Sequence[Genome], values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the mean reward over the episodes, (networks, values)."""
        starts = draw_starts(self.episodes, rng)
        networks = Networks(genomes, len(values) * self.episodes, "tanh")
        rewards = swing(networks, np.repeat(values, self.episodes), np.tile(starts, len(values)))
        return rewards.reshape(len(genomes), len(values), self.episodes).mean(axis=-1)


def draw_starts(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw states to start from, (4, count): position, velocity, angle, angular velocity, around a hanging pole."""
    return np.array([0.0, 0.0, np.pi, 0.0])[:, None] + 0.2 * rng.normal(size=(4, count))


def swing(networks: Networks, weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Run an episode in every lane of every network.

    Args:
        networks: The networks.
        weights: As `Networks.run` takes them.
        starts: What each lane starts from, (4, lanes).

    Returns:
        Rewards, (networks, lanes).
    """
    position, velocity, cosine, sine, turning = networks.inputs
    position[:], velocity[:], turning[:] = starts[0], starts[1], starts[3]
    angle = np.broadcast_to(starts[2], position.shape).copy()
    np.cos(angle, out=cosine)
    np.sin(angle, out=sine)
    total = np.zeros_like(position)
    time = np.full_like(position, STEP)  # 0 where the episode is over, so that nothing moves any more
    for _ in range(STEPS):
        action = networks.run(weights)[:, 0]
        pushed, turned = accelerate(velocity, cosine, sine, turning, FORCE * np.clip(action, -1.0, 1.0))
        position += time * velocity
        angle += time * turning
        velocity += time * pushed
        turning += time * turned
        np.cos(angle, out=cosine)
        np.sin(angle, out=sine)
        total += time * (cosine + 1.0) * np.cos(np.pi / (2 * EDGE) * position)
        time[np.abs(position) > EDGE] = 0.0
        if not time.any():
            break
    return total / (2 * STEP)


def accelerate(
    velocity: np.ndarray, cosine: np.ndarray, sine: np.ndarray, turning: np.ndarray, force: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the accelerations of the cart and of the pole's angle."""
    pushed = force - FRICTION * velocity
    swung = POLE * LENGTH * turning * turning * sine
    room = 4 * (CART + POLE) - 3 * POLE * cosine * cosine
    cart = (4 * pushed - 2 * swung + 3 * POLE * GRAVITY * sine * cosine) / room
    pole = (6 * (CART + POLE) * GRAVITY * sine + 6 * pushed * cosine - 3 * swung * cosine) / (LENGTH * room)
    return cart, pole


class Digits:
    """The handwritten digits of scikit-learn, 8x8 pixels in 0..1, by softmax and cross-entropy.

    Args:
        images: Training images, (examples, 64).
        labels: Their classes.
        batches: Number of batches, drawn anew in every generation, that networks are judged by.
        size: Number of images of a batch, each of them another one.
    """

    inputs, outputs = 64, 10
    activations = tuple(place for place, name in enumerate(ACTIVATIONS) if name != "step")

    def __init__(self, images: np.ndarray, labels: np.ndarray, batches: int, size: int):
        self._images, self._labels, self._size = images, labels, size
        self.batches = batches

    def reward(self, genomes: Sequence[Genome], values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return minus the mean cross-entropy, (networks, values)."""
        draws = [rng.choice(len(self._images), self._size, replace=False) for _ in range(self.batches)]
        chosen = np.concatenate(draws)
        images, labels = np.ascontiguousarray(self._images[chosen].T), self._labels[chosen]
        return np.array([-cross_entropy(compute_outputs(genome, images, values), labels) for genome in genomes])


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean cross-entropy of softmax at each value, from logits (values, classes, examples)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    right = np.take_along_axis(shifted, labels[None, None], axis=1)[:, 0]
    return (np.log(np.exp(shifted).sum(axis=1)) - right).mean(axis=1)
