codebase_config = dict(task='detection')
