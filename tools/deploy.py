"""Deploy: `python tools/deploy.py DEPLOY_CFG MODEL_CFG CHECKPOINT IMG`; see --help and docs/deployment.md."""

from mmtrtvit.deploy.tools.deploy import main

if __name__ == '__main__':
    main()
