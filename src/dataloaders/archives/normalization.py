"""Mean and standard deviation of the training images of each set, by channel, on the 0..1 scale.

Of 32x32 images: MNIST and Fashion-MNIST with their black margin. Not in sources.py, as these values change results, and
where a set comes from does not.
"""

_CIFAR = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)
NORMALIZATION = {
    'cifar10': _CIFAR,
    'cifar100': _CIFAR,
    'mnist': ((0.1,), (0.2752,)),
    'svhn': ((0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197)),
    'fashion-mnist': ((0.2190,), (0.3318,)),
    'traffic-signs': ((0.3398, 0.3117, 0.3210), (0.2755, 0.2647, 0.2712)),
    'facescrub': ((0.5163, 0.5569, 0.4695), (0.2307, 0.2272, 0.2479)),
    'notmnist': ((0.4254,), (0.4501,)),
}
MNIST_28 = (0.1307,), (0.3081,)  # MNIST as it is, 28x28, without a margin
