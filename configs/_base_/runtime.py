# What every config of ours shares beside its library's default runtime.
custom_imports = dict(imports=['mmtrtvit'], allow_failed_imports=False)
