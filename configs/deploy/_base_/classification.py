codebase_config = dict(task='classification')
