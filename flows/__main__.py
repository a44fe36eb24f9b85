"""`python -m flows`: offer every family's deployment to a Prefect server."""

if __name__ == "__main__":
    from aigc_ops.core.import_path import drop_working_folder, isolate

    drop_working_folder()
    from aigc_ops.core.state_dir import export_environment

    export_environment()  # before Prefect is imported, which reads its settings then
    isolate()
    from flows.deployments import main

    main()
