// Python in a worker, so that a page which learns stays alive. Messages in: {root, pyodide, files}, where things are;
// then {code}, to run, or {file, call, given}, a function of a file of Python. Messages out: {state}, {text},
// {picture}, and {done} with {error} or {result}.
let ready;
const QUIET = { messageCallback: () => {}, errorCallback: () => {} };       // what is missing an import says, by its name

async function start({ root, pyodide: home }) {
    postMessage({ state: "loading" });
    importScripts(home + "pyodide.js");
    const python = await loadPyodide({ indexURL: home });
    python.setStdout({ batched: (text) => postMessage({ text: text + "\n" }) });
    python.setStderr({ batched: (text) => postMessage({ text: text + "\n" }) });
    const [, wheel, driver] = await Promise.all([
        python.loadPackage("numpy", QUIET),
        fetched(root + "_static/cells/tinyseq.whl"), fetched(root + "_static/cells/cell.py")]);
    python.unpackArchive(wheel, "wheel");
    python.FS.writeFile("cell.py", driver);
    // it would warn that it begins
    python.runPython("import logging; logging.getLogger('matplotlib.font_manager').setLevel('ERROR')");
    return python;
}

async function fetched(address) {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
    return new Uint8Array(await answer.arrayBuffer());
}

async function bring(python, root, files) {
    for (const name of files)
        if (!python.FS.analyzePath(name).exists) python.FS.writeFile(name, await fetched(`${root}_static/cells/${name}`));
    python.pyimport("importlib").invalidate_caches();
}

onmessage = async ({ data }) => {
    let outcome;
    try {
        const python = await (ready ??= start(data).catch((error) => { ready = undefined; throw error; }));
        await bring(python, data.root, data.files);
        if (data.call) {
            const module = python.pyimport(data.file.replace(".py", ""));
            outcome = { result: JSON.parse(module[data.call](...data.given)) };
        } else {
            if (/\bplot\b|\bmatplotlib\b/.test(data.code))              // only then: it is as large as all the rest
                await python.loadPackage("matplotlib", QUIET);
            postMessage({ state: "running" });
            outcome = { error: python.pyimport("cell").run(data.code, (picture) => postMessage({ picture })) };
        }
    } catch (error) {
        outcome = { error: error.message };
    }
    postMessage({ done: true, ...outcome });
};
