codebase_config = dict(task='segmentation')
