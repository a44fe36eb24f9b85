"""`python -m flows`: serve every deployment to a Prefect server."""

if __name__ == "__main__":
    # The order matters: the working folder leaves the import path before anything else is
    # imported, and the environment is set before Prefect, which reads its settings when imported.
    from aigc_ops.core.import_path import drop_working_folder, isolate

    drop_working_folder()
    from aigc_ops.core.utf8 import ensure_utf8

    ensure_utf8()
    from aigc_ops.core.state_dir import export_environment

    export_environment()
    isolate()
    from flows.deployments import main

    main()
