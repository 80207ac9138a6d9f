"""Every field of a configuration with its unit and where the paper speaks of it."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The paper's network and losses; experiments change what they need."""
    config = ConfigDict()
    config.seed = 0  # of the initial weights, the order of the slices and the augmentation

    data = config.data = ConfigDict()
    data.name = "ct_phantom"  # a data set of input_pipeline/datasets.py
    data.task = "binary"  # 'binary' (lesion) or 'multiclass' (ground-glass, consolidation)
    data.source_dir = ""  # folder with the downloaded files; not needed for ct_phantom
    data.data_dir = "tfds_data"  # where the records are built and read
    data.validation_split = ""  # name of the validation split; '' holds slices of 'train' out
    data.validation_slices = 0  # slices held out when validation_split is '', whole patients
    data.train_slices = 0  # labelled slices that train, whole patients; 0 for all
    data.lesion_slices_only = False  # train on slices with lesion alone (sec. 4.1)
    data.split_seed = 0  # of the slices held out, and of train_slices
    data.image_size = 512  # side of the network's square grid, pixels, a multiple of 32 (sec. 4.1)
    data.lung_mask = "file"  # second input channel: 'file', 'threshold' or 'none' (sec. 3.2.1)
    data.lung_dilation = 0  # pixels added around the lung mask

    model = config.model = ConfigDict()
    model.encoder = "published"  # or 'torchvision', which ImageNet weights fit
    model.skip = "concat"  # the paper's skip connections (sec. 3.1.3); 'add' is the published code
    model.spatial_conv = True  # table 3's "SC"
    model.kernel_size = 9  # k, width of the spatial convolution's kernels (eq. 5)
    # How it is computed: 'auto' picks by backend; 'filtered', 'custom_vjp', 'scan' or 'unrolled',
    # the same numbers up to rounding.
    model.spatial_conv_impl = "auto"
    model.dtype = "float32"  # of the computation, or 'bfloat16'; parameters are float32

    attention = config.attention = ConfigDict()
    attention.alpha = 0.1  # weight of the attention loss (eq. 7); 0 is table 3 without "SA"
    attention.power = 2.0  # z (eq. 1)
    attention.start_epoch = 0.0  # epoch at which it starts (table 3, E1 to E6)
    attention.ramp_epochs = 0.0  # epochs over which its weight rises to alpha
    attention.normalize = "none"  # before the softmax: 'none' (paper), 'mean' or 'standardize'
    attention.stop_gradient = False  # True: the deeper map only teaches (Hou et al. 2019)

    loss = config.loss = ConfigDict()
    loss.dice = 1.0  # weight of the Dice loss (eq. 6)
    loss.dice_absent = True  # False leaves a class that a slice lacks to the cross entropy
    loss.cross_entropy = 0.0  # weight of the cross entropy (eq. 8)
    loss.class_weight_over = "none"  # its class weights: 'none', 'lesion' or 'all'
    loss.class_weight_clip = 0.0  # largest class weight, 0 for no limit

    optim = config.optim = ConfigDict()
    optim.learning_rate = 1e-3
    optim.schedule = "cosine"  # or 'step': divided by 10 every decay_epochs (published code)
    optim.warmup_epochs = 0.0
    optim.decay_epochs = 100.0
    optim.weight_decay = 1e-8  # decoupled, kernels only
    optim.clip_norm = 0.0  # largest gradient norm, 0 for no limit
    optim.accumulate_steps = 1  # steps averaged into one update (published code: 24)
    # Of the running average of the weights, 0 for none; it is evaluated and gives pseudo-labels.
    optim.average_decay = 0.0

    train = config.train = ConfigDict()
    train.batch_size = 8  # of all devices together
    train.epochs = 150  # sec. 4.3.1
    train.validate_every = 1  # epochs between validations and checkpoints
    train.mapping = "pmap"  # or 'shard_map'; the same numbers
    train.init_from = ""  # workdir whose best network is the start; '' for fresh weights

    loop = config.self_train = ConfigDict()  # of launch.self_train alone
    loop.move = 100  # t, unlabelled slices that join after a round (sec. 3.2.2)
    loop.eta = 0.95  # confidence that a pseudo-label needs (eq. 9); 0 for no trust module
    loop.low_confidence = "background"  # what other pixels become; or 'ignore'
    loop.adaptive_share = 0.0  # share of a class's pixels that passes at least; 0 for eta alone
    loop.soft = False  # a pixel's weight in the loss is the probability of its pseudo-label
    loop.warm_start = False  # a round starts from the last one's weights, not from fresh ones
    loop.same_steps = False  # every round takes the first one's number of steps, not train.epochs
    loop.patience = 1  # rounds without a better validation DSC before it stops
    loop.max_rounds = 10
    loop.unlabelled_slices = 0  # use that many, drawn by the seed; 0 for all

    evaluation = config.eval = ConfigDict()
    evaluation.batch_size = 8
    evaluation.flip = False  # average over mirror images of the slice
    evaluation.tolerance = 3.0  # of NSD: mm where the spacing is known, else pixels (sec. 4.2)

    augment = config.augment = ConfigDict()
    augment.flip_horizontal = True  # mirrors left and right: no class here depends on the side
    augment.flip_vertical = False
    augment.rotation_degrees = 10.0  # largest angle either way
    augment.scaling = 0.1  # largest relative change of size
    augment.intensity_shift = 0.05  # largest shift, in units of the intensity's range [0, 1]
    augment.intensity_gain = 0.1  # largest relative change of contrast
    augment.gamma = 0.2  # largest exponent is 1 + gamma, smallest its inverse
    augment.noise_sd = 0.02  # largest standard deviation of the noise
    augment.probability = 0.5  # of each change

    return config.lock()
