"""Training of the bundled models: `pretrain` makes the backbone, `adapt` makes the SideNet."""
