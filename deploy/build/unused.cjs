// Stands for a package that a dependency requires and never uses as we use it (esbuild.config.mjs says which).
