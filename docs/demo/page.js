// The page: reads a photograph, shows it before and after, and offers the result as a file.

import * as ort from './node_modules/onnxruntime-web/dist/ort.wasm.min.mjs';
import { colorize } from './colorize.js';

const MODEL = 'colorizer.onnx';
const MOST = 40e6; // pixels; canvases of browsers end a little above
const find = (id) => document.getElementById(id);
const [before, after] = [find('before'), find('after')];

ort.env.wasm.wasmPaths = new URL('node_modules/onnxruntime-web/dist/', import.meta.url).href;

function say(text, failed = false) {
    find('status').textContent = text;
    find('status').classList.toggle('failed', failed);
}

function show(share) {
    find('progress').hidden = share === 1;
    find('progress').value = share;
}

/** Reads an address with progress. */
async function download(address) {
    const response = await fetch(address);
    if (!response.ok) {
        throw new Error(`${address} is not there: export it beside this page.`);
    }
    const total = Number(response.headers.get('Content-Length'));
    const parts = [];
    let size = 0;
    for (const reader = response.body.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) {
            return new Uint8Array(await new Blob(parts).arrayBuffer());
        }
        parts.push(value);
        size += value.length;
        show(total ? Math.min(size / total, 0.99) : 0);
    }
}

async function load() {
    say('Loading the network …');
    const session = await ort.InferenceSession.create(await download(MODEL));
    show(1);
    say('Ready. Drop a photograph, or choose one.');
    return session;
}

async function read(file) {
    let bitmap;
    try {
        bitmap = await createImageBitmap(file);
    } catch {
        throw new Error(`${file.name} is not an image that this browser reads.`);
    }
    const scale = Math.min(1, Math.sqrt(MOST / (bitmap.width * bitmap.height)));
    for (const canvas of [before, after]) {
        canvas.width = Math.max(1, Math.floor(bitmap.width * scale));
        canvas.height = Math.max(1, Math.floor(bitmap.height * scale));
    }
    before.getContext('2d').drawImage(bitmap, 0, 0, before.width, before.height);
    bitmap.close();
}

async function run(file) {
    find('file').disabled = true;
    try {
        const session = await ready;
        await read(file);
        const { width, height } = before;
        const image = before.getContext('2d').getImageData(0, 0, width, height);
        after.hidden = true;
        find('save').hidden = true; // it has the result of the photograph before
        find('compare').hidden = false;
        say(`Colorizing ${file.name} …`);
        const start = performance.now();
        await colorize(image, ort, session, show);
        after.getContext('2d').putImageData(image, 0, 0);
        after.hidden = false;
        const seconds = ((performance.now() - start) / 1000).toFixed(1);
        say(`${file.name}: ${width} × ${height} px, ${seconds} s. Drag the line to compare.`);
        const blob = await new Promise((resolve) => after.toBlob(resolve, 'image/png'));
        if (!blob) {
            throw new Error(`${file.name} is colorized, but this browser cannot make a PNG of it.`);
        }
        URL.revokeObjectURL(find('save').href);
        find('save').href = URL.createObjectURL(blob);
        find('save').download = `${file.name.replace(/\.[^.]*$/, '')}-colorized.png`;
        find('save').hidden = false;
    } catch (error) {
        say(error.message, true);
    } finally {
        show(1);
        find('file').disabled = false;
        find('file').value = '';
    }
}

find('line').addEventListener('input', (event) => {
    find('compare').style.setProperty('--line', `${event.target.value}%`);
});
find('file').addEventListener('change', (event) => {
    if (event.target.files.length) {
        run(event.target.files[0]);
    }
});
for (const kind of ['dragover', 'drop']) {
    document.addEventListener(kind, (event) => event.preventDefault());
}
document.addEventListener('drop', (event) => {
    if (event.dataTransfer.files.length && !find('file').disabled) {
        run(event.dataTransfer.files[0]);
    }
});

const ready = load();
ready.catch((error) => {
    show(1);
    say(error.message, true);
});
