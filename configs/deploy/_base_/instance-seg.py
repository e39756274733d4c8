codebase_config = dict(task='instance-segmentation')
