// Cells that a reader edits and runs (_extensions/runnable.py), and what the playgrounds share with them: `Python`.
"use strict";

const WORDS = {
    en: { run: "Run", stop: "Stop", loading: "Python is on its way (the first time some 20 MB) …", running: "running …",
          done: "done, in your browser", stopped: "stopped", stored: "below: what it printed when this page was built",
          failed: "ended by an error", absent: "Python did not start", typed: "type here" },
    zh: { run: "运行", stop: "停止", loading: "正在载入 Python（第一次约 20 MB）……", running: "运行中……",
          done: "已在你的浏览器中运行完毕", stopped: "已停止", stored: "下面是生成本页时的输出", failed: "因出错而结束",
          absent: "Python 没有启动", typed: "在此输入" },
};

// A Python that lives in a worker. Of one page there is one, and who asks while it works waits for its turn.
class Python {
    constructor(element) {
        this.words = WORDS[element.dataset.language];
        this.root = new URL(element.dataset.root || ".", location.href).href;
        // ?pyodide=/folder/ in the address, on this very server: no link makes a page run another's code.
        const asked = new URL(new URLSearchParams(location.search).get("pyodide") || element.dataset.pyodide, this.root);
        this.pyodide = asked.origin === location.origin ? asked.href : new URL(element.dataset.pyodide, this.root).href;
    }
    // Send a message, hear all that comes back till it is done, and return that.
    ask(message, hear = () => {}) {
        this.worker ??= new Worker(this.root + "_static/cells/worker.js");
        return new Promise((resolve) => {
            this.worker.onmessage = ({ data }) => (data.done ? resolve(data) : hear(data));
            this.worker.onerror = (event) => resolve({ error: event.message || this.words.absent });
            this.worker.postMessage({ root: this.root, pyodide: this.pyodide, files: [], ...message });
        });
    }
    stop() {
        this.worker?.terminate();
        this.worker = undefined;
    }
}

function makeCell(cell) {
    const part = (name) => cell.querySelector(`.cell-${name}`);
    const python = new Python(cell), words = python.words;
    const [code, bar, run, stop, state, text, error] =
        ["code", "bar", "run", "stop", "state", "text", "error"].map(part);
    let runs = 0;                                           // which run it is: one that was stopped says no more

    function draw(base64) {
        let picture = part("picture");
        if (!picture) {
            picture = document.createElement("img");
            picture.className = "cell-picture";
            picture.alt = "";
            cell.append(picture);
        }
        picture.src = `data:image/png;base64,${base64}`;
        picture.hidden = false;
    }
    function clear() {
        text.textContent = "";
        if (part("picture")) part("picture").hidden = true;
    }
    function end(message) {
        runs += 1;
        run.disabled = false;
        stop.disabled = true;
        state.textContent = message;
    }
    async function begin() {
        const mine = ++runs;
        run.disabled = true;
        stop.disabled = false;
        error.hidden = true;
        const files = cell.dataset.files.split(" ").filter(Boolean);
        const outcome = await python.ask({ code: code.value, files }, (heard) => {
            if (mine !== runs) return;
            if (heard.state) state.textContent = words[heard.state];
            if (heard.state === "running") clear();                     // if Python does not come, the stored result stays
            if (heard.text) text.textContent += heard.text;
            if (heard.picture) draw(heard.picture);
        });
        if (mine !== runs) return;
        error.textContent = outcome.error || "";
        error.hidden = !outcome.error;
        end(outcome.error ? words.failed : words.done);
    }

    run.textContent = words.run;
    stop.textContent = words.stop;
    state.textContent = words.stored;
    run.onclick = begin;
    stop.onclick = () => { python.stop(); end(words.stopped); };
    code.onkeydown = (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { if (!run.disabled) begin(); }
        else if (event.key === "Tab" && !event.shiftKey && code.dataset.left !== "yes") {
            event.preventDefault();
            code.setRangeText("    ", code.selectionStart, code.selectionEnd, "end");
        }
        code.dataset.left = event.key === "Escape" ? "yes" : "no";      // after Escape, Tab goes on as elsewhere
    };
    bar.hidden = false;
}

// A map of numbers from 0, white, to 1, blue, with names at its rows and columns.
function drawMap({ title, rows, columns, values }) {
    const make = (name, attributes, text = "") => {
        const node = document.createElementNS("http://www.w3.org/2000/svg", name);
        for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
        node.textContent = text;
        return node;
    };
    const upright = columns.some((column) => column.length > 2);
    const size = 22, left = 12 + 9 * Math.max(...rows.map((row) => row.length));
    const top = upright ? 12 + 8 * Math.max(...columns.map((column) => column.length)) : 20;
    const [width, height] = [left + size * columns.length + 4, top + size * rows.length + 2];
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title });
    columns.forEach((column, x) => {
        const [at, y] = [left + size * (x + 0.5), top - 6];
        svg.append(make("text", upright ? { x: at + 4, y, transform: `rotate(-90 ${at + 4} ${y})` }
                                        : { x: at, y, "text-anchor": "middle" }, column));
    });
    rows.forEach((row, y) => {
        svg.append(make("text", { x: left - 6, y: top + size * (y + 0.7), "text-anchor": "end" }, row));
        columns.forEach((column, x) => {
            const cell = make("rect", { x: left + size * x, y: top + size * y, width: size - 1, height: size - 1,
                                        class: "playground-cell",
                                        fill: `color-mix(in srgb, #2a6f97 ${100 * values[y][x]}%, white)` });
            cell.append(make("title", {}, `${row} ${column}: ${values[y][x]}`));
            svg.append(cell);
        });
    });
    const figure = document.createElement("figure");
    figure.append(Object.assign(document.createElement("figcaption"), { textContent: title }), svg);
    return figure;
}

function makePlayground(place) {
    const part = (name) => place.querySelector(`.${name}`);
    const python = new Python(place), words = python.words;
    const [input, state] = [part("cell-code"), part("cell-state")];
    let working = false;

    function show({ text, maps }) {
        part("playground-text").textContent = text;
        part("playground-maps").replaceChildren(...maps.map(drawMap));
    }
    // Of the letters that come while Python works only the last ones are asked for.
    async function watch() {
        if (working) return;
        working = true;
        for (let asked; asked !== input.value;) {
            asked = input.value;
            const message = { file: place.dataset.file, call: "watch", given: [asked, place.dataset.language],
                              files: place.dataset.files.split(" ") };
            const { error, result } = await python.ask(message, (heard) => {
                if (heard.state) state.textContent = words[heard.state];
            });
            state.textContent = error || "";
            if (result) show(result);
        }
        working = false;
    }

    show(JSON.parse(place.dataset.found));
    input.ariaLabel = words.typed;
    input.oninput = watch;
}

document.querySelectorAll(".cell").forEach(makeCell);
document.querySelectorAll(".playground").forEach(makePlayground);
