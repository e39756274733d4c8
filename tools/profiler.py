"""Profile: `python tools/profiler.py DEPLOY_CFG MODEL_CFG IMAGE_DIR --model FILE`; see docs/deployment.md."""

from mmtrtvit.deploy.tools.profiler import main

if __name__ == '__main__':
    main()
