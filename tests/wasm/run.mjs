// Run pytest under Pyodide, in Node and in one process: CPython compiled to WebAssembly, where np.intp has 4 bytes and
// there are neither threads nor processes.
//
//     node tests/wasm/run.mjs build/pyodide build/wasm build/wheel/tinyseq-0.1.0-py3-none-any.whl [PYTEST'S ARGUMENTS]
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [home, packages, wheel, ...args] = process.argv.slice(2);
try {
    const { loadPyodide } = await import(pathToFileURL(resolve(home, "pyodide.mjs")));
    const pyodide = await loadPyodide({ indexURL: resolve(home) + "/" });
    await pyodide.loadPackage("numpy", { messageCallback: () => {} });
    pyodide.unpackArchive(new Uint8Array(readFileSync(wheel)), "wheel");
    for (const [place, folder] of [["/packages", packages], ["/repo", "."]]) {
        pyodide.FS.mkdir(place);
        pyodide.FS.mount(pyodide.FS.filesystems.NODEFS, { root: resolve(folder) }, place);
    }
    pyodide.globals.set("args", pyodide.toPy(args));
    process.exitCode = pyodide.runPython(`
import os, sys
sys.path += ["/packages", "/repo/tests"]
sys.dont_write_bytecode = True
os.environ["TINYSEQ_TEST_PROFILE"] = "emulated"       # few examples: it is several times slower than CPython
os.chdir("/repo")
import pytest
int(pytest.main(["-p", "no:cacheprovider", "-p", "wasm.named", "--capture=sys", *args]))        # there are no files without a name
`);
} catch (error) {
    console.error(error.message);       // not the error: Node would show a line of Pyodide, which is a megabyte long
    process.exitCode = 1;
}
