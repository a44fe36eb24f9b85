"""`python -m flows`: offer every family's deployment to a Prefect server."""

from aigc_ops.home import export_environment

if __name__ == "__main__":
    export_environment()  # before Prefect is imported, which reads its settings then
    from flows.deployments import main

    main()
