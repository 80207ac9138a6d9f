"""Every field of a configuration, with its default, its unit and its place in the paper."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the paper's network and losses, the defaults of every experiment."""
    config = ConfigDict()
    config.seed = 0  # of the initial weights, the order of the slices and the augmentation
    config.data = _data()
    config.model = _model()
    config.attention = _attention()
    config.loss = _loss()
    config.optim = _optim()
    config.train = _train()
    config.self_train = _self_train()
    config.eval = _eval()
    config.augment = _augment()
    config.mixing = _mixing()
    return config.lock()


def _data() -> ConfigDict:
    """Return the data set, its splits, and the preprocessing of its slices."""
    data = ConfigDict()
    data.name = "ct_phantom"  # name of a data set in input_pipeline/datasets/catalog.py
    data.task = "binary"  # 'binary' (lesion) or 'multiclass' (ground-glass, consolidation)
    data.source_dir = ""  # folder with the downloaded files; not needed for ct_phantom
    data.data_dir = "tfds_data"  # where the records are built and read
    data.validation_split = ""  # name of the validation split; '' splits it off from 'train'
    data.validation_slices = 0  # if validation_split is '': slices to split off, whole patients
    data.train_slices = 0  # labelled slices to train on, whole patients; 0 for all
    data.lesion_slices_only = False  # train only on slices with lesion (sec. 4.1)
    data.split_seed = 0  # of the draw of validation_slices and train_slices
    data.image_size = 512  # side of the network's square grid, pixels, a multiple of 32 (sec. 4.1)
    data.lung_mask = "file"  # second input channel: 'file', 'threshold' or 'none' (sec. 3.2.1)
    data.lung_dilation = 0  # pixels added around the lung mask
    # Which grey values of an 8-bit slice become 0 and 1: 'percentiles' (its 1st and 99th),
    # 'anatomy' (those of -1250 and 250 HU by its lung and soft tissue) or 'window' (0 and 255, of
    # slices known to show -1250 to 250 HU). Not for slices in HU.
    data.grey_values = "percentiles"
    # Memory of each process for prepared slices, divided over its workers, which keep their own;
    # the others are read each time.
    data.cache_gb = 8.0
    # Processes that read and augment slices, of each training process; 0 for two of its threads.
    data.workers = 0
    # Whether the training step augments on the device, by `augment.*` and other random numbers, so
    # that the host only reads; for single slices, neither mixed nor of two pools.
    data.augment_on_device = False
    return data


def _model() -> ConfigDict:
    """Return the network."""
    model = ConfigDict()
    model.encoder = "published"  # or 'torchvision', which ImageNet weights fit
    model.stage_sizes = (3, 4, 6, 3)  # residual blocks of its four stages; this is ResNet34
    model.padding = "zeros"  # of the encoder's convolutions, or 'reflect'
    model.skip = "concat"  # the paper's skip connections (sec. 3.1.3); 'add' is the published code
    model.spatial_conv = True  # table 3's "SC"
    # Whether the head decides lesion or not first, then which (MEDPSeg); for several classes.
    model.nested_classes = False
    model.kernel_size = 9  # k, width of the spatial convolution's kernels (eq. 5)
    # Implementation: 'auto' (the backend's choice), 'filtered', 'custom_vjp', 'scan', 'unrolled',
    # or 'pallas' on a TPU; all give the same numbers up to rounding.
    model.spatial_conv_impl = "auto"
    # Of the computation, or 'bfloat16', which a CPU computes in float32; parameters are float32.
    model.dtype = "float32"
    return model


def _attention() -> ConfigDict:
    """Return the attention maps and their loss."""
    attention = ConfigDict()
    attention.alpha = 0.1  # weight of the attention loss (eq. 7); 0 is table 3 without "SA"
    attention.power = 2.0  # z (eq. 1)
    attention.start_epoch = 0.0  # epoch at which it starts (table 3, E1 to E6)
    attention.ramp_epochs = 0.0  # epochs over which its weight rises to alpha
    attention.normalize = "none"  # before the softmax: 'none' (paper), 'mean' or 'standardize'
    attention.stop_gradient = False  # True: the deeper map is a fixed target (Hou et al. 2019)
    return attention


def _loss() -> ConfigDict:
    """Return the segmentation loss."""
    loss = ConfigDict()
    loss.dice = 1.0  # weight of the Dice loss (eq. 6)
    loss.dice_absent = True  # whether a class counts in slices without it
    loss.cross_entropy = 0.0  # weight of the cross entropy (eq. 8)
    loss.class_weight_over = "none"  # its class weights: 'none', 'lesion' or 'all'
    loss.class_weight_clip = 0.0  # largest class weight, 0 for no limit
    return loss


def _optim() -> ConfigDict:
    """Return the optimiser and its schedule."""
    optim = ConfigDict()
    optim.learning_rate = 1e-3
    # Slices of an update for which that is the rate, which grows with their number (Goyal et al.
    # 2017; set a warm-up, too); 0 for the rate as it is.
    optim.rate_for_batch = 0
    optim.schedule = "cosine"  # or 'step': divided by 10 every decay_epochs (published code)
    optim.warmup_epochs = 0.0
    optim.decay_epochs = 100.0
    optim.weight_decay = 1e-8  # decoupled, kernels only
    optim.clip_norm = 0.0  # largest gradient norm, 0 for no limit
    # Steps in a row without a finite loss and gradient that are passed over, as a bfloat16 training
    # may need; 0 stops at the first.
    optim.skip_nonfinite = 0
    optim.accumulate_steps = 1  # steps averaged into one update (published code: 24)
    # Decay of the moving average of the weights, which is evaluated and makes pseudo-labels; 0 for
    # none.
    optim.average_decay = 0.0
    return optim


def _train() -> ConfigDict:
    """Return the length of a training, its mapping, and its initial weights."""
    train = ConfigDict()
    train.batch_size = 8  # slices in a step, over all devices
    # Neighbouring devices that share BatchNorm's statistics, 0 for all: every layer waits for them.
    train.norm_devices = 0
    # Parts in which a device computes its share of a step, one after the other, with BatchNorm's
    # statistics of their own: for batches whose maps do not fit into its memory.
    train.microbatches = 1
    train.epochs = 150  # sec. 4.3.1
    train.validate_every = 1  # epochs between validations and checkpoints
    train.mapping = "pmap"  # or 'shard_map'; the same numbers
    # Whether the moving average labels an unlabelled slice for each labelled one in every step, by
    # self_train.eta, pseudo_weight, pseudo_ramp_epochs, strong_intensity and mixing.cutmix.
    train.consistency = False
    # Configuration whose network, trained first unless that is done, gives the initial weights.
    train.pretrain = ""
    train.init_from = ""  # workdir whose best network gives the initial weights; '' draws them
    return train


def _self_train() -> ConfigDict:
    """Return the rounds of pseudo-labels, used by `ssa-jax self_train` alone."""
    loop = ConfigDict()
    loop.slices_per_round = 100  # t, unlabelled slices added after a round (sec. 3.2.2)
    loop.eta = 0.95  # confidence that a pseudo-label needs (eq. 9); 0 for no trust module
    loop.low_confidence = "background"  # label of other pixels; 'ignore' gives them weight 0
    loop.adaptive_share = 0.0  # least share of a class's pixels to label; 0 for eta alone
    loop.soft = False  # whether a pixel's weight is its pseudo-label's probability
    loop.warm_start = False  # start a round from the last one's weights, not from fresh ones
    loop.same_steps = False  # as many steps in every round as in the first
    loop.labelled_share = 0.0  # of labelled slices in every batch; 0 draws all slices alike
    loop.pseudo_weight = 1.0  # of the loss of pseudo-labelled slices, if labelled_share is set
    loop.pseudo_ramp_epochs = 0.0  # epochs over which that weight rises from 0
    # Factor of augment's changes of intensity for pseudo-labelled slices, if labelled_share is set.
    loop.strong_intensity = 1.0
    loop.temperature = 1.0  # of the probabilities that become labels; 0 fits it on validation
    loop.leave_out_doubtful = False  # slices on which a lesion is likely, but nowhere sure
    loop.choose = "best"  # round to keep: 'best' by validation DSC, or 'last' of max_rounds
    loop.patience = 1  # rounds without a better validation DSC after which to stop
    loop.max_rounds = 10
    loop.unlabelled_slices = 0  # number of slices to use, drawn by the seed; 0 for all
    return loop


def _eval() -> ConfigDict:
    """Return the prediction and scoring of slices."""
    evaluation = ConfigDict()
    evaluation.batch_size = 8
    evaluation.flip = False  # average the probabilities over mirror images of the slice
    evaluation.tolerance = 3.0  # of NSD: mm where the spacing is known, else pixels (sec. 4.2)
    # Added to the logit of consolidation against ground-glass, of the intensity in [0, 1] that
    # data.grey_values makes: density_slope (intensity - density_middle).
    evaluation.density_slope = 0.0
    evaluation.density_middle = 0.5
    # Of two classes, one with less than this share of a slice's lesion becomes the other.
    evaluation.least_share = 0.0
    return evaluation


def _augment() -> ConfigDict:
    """Return the augmentation, random changes to training slices."""
    augment = ConfigDict()
    augment.flip_horizontal = True  # swaps left and right; no class here depends on the side
    augment.flip_vertical = False
    augment.rotation_degrees = 10.0  # largest angle either way
    augment.scaling = 0.1  # largest relative change of size
    augment.intensity_shift = 0.05  # largest shift, in units of the intensity's range [0, 1]
    augment.intensity_gain = 0.1  # largest relative change of contrast
    augment.gamma = 0.2  # largest exponent is 1 + gamma, smallest its inverse
    augment.noise_sd = 0.02  # largest standard deviation of the noise
    augment.probability = 0.5  # of each change
    return augment


def _mixing() -> ConfigDict:
    """Return how training slices are mixed with others, pseudo-labelled ones with labelled ones."""
    mixing = ConfigDict()
    mixing.cutmix = 0.0  # probability that a box of another slice replaces the slice's
    mixing.copy_paste = 0.0  # probability that another slice's lesions are pasted into the lungs
    mixing.amplitude = 0.0  # probability of the other's low-frequency amplitudes
    return mixing
