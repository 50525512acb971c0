// Colorizes an ImageData with an exported network, in strips so that the page stays responsive.

import { lightness, toRgb } from './lab.js';

const SIDE = 256; // px, about, of the photograph that the network sees
const MULTIPLE = 32; // of both sides of the network's input
const STRIP = 2 ** 18; // pixels between two signs of progress

/** Sides of the network's input: about SIDE x SIDE px, with the photograph's aspect ratio. */
export function inputSize(width, height) {
    const scale = SIDE / Math.sqrt(width * height);
    const side = (length) =>
        Math.min(4, Math.max(0.25, (length * scale) / SIDE)) * (SIDE / MULTIPLE);
    return [width, height].map((length) => Math.max(1, Math.round(side(length))) * MULTIPLE);
}

/** (height, width) means of L* over blocks, as L* / 50 - 1: the input `condition`. */
function condition(image, width, height) {
    const small = new OffscreenCanvas(width, height);
    const context = small.getContext('2d', { willReadFrequently: true });
    context.imageSmoothingQuality = 'high';
    const whole = new OffscreenCanvas(image.width, image.height);
    whole.getContext('2d').putImageData(image, 0, 0);
    context.drawImage(whole, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    const values = new Float32Array(width * height);
    for (let i = 0; i < values.length; i += 1) {
        values[i] = lightness(data[4 * i], data[4 * i + 1], data[4 * i + 2]) / 50 - 1;
    }
    return values;
}

/** The two pixels, and the weight of the second, for each of `length` pixels; edges replicated. */
function taps(length, small) {
    return Array.from({ length }, (_, i) => {
        const at = Math.min(Math.max(((i + 0.5) * small) / length - 0.5, 0), small - 1);
        const first = Math.floor(at);
        return [first, Math.min(first + 1, small - 1), at - first];
    });
}

/** Replaces the colours of rows from `top` up to `bottom` of an ImageData. */
function recolor(image, ab, [width, height], columns, rows, top, bottom) {
    const { data } = image;
    const at = (row, column, channel) => ab[2 * (row * width + column) + channel];
    const mix = (first, second, weight) => first + weight * (second - first);
    for (let y = top; y < bottom; y += 1) {
        const [up, down, below] = rows[y];
        for (let x = 0; x < image.width; x += 1) {
            const [left, right, beside] = columns[x];
            const i = 4 * (y * image.width + x);
            const [a, b] = [0, 1].map((c) =>
                mix(
                    mix(at(up, left, c), at(up, right, c), beside),
                    mix(at(down, left, c), at(down, right, c), beside),
                    below,
                ),
            );
            toRgb(lightness(data[i], data[i + 1], data[i + 2]), a, b, data, i);
        }
    }
}

const breathe = () => new Promise((resolve) => setTimeout(resolve));

/**
 * Replaces the colours of an ImageData.
 *
 * @param {ImageData} image - of any size.
 * @param {object} ort - onnxruntime-web.
 * @param {object} session - of a model with the input `condition` and the output `ab`.
 * @param {(share: number) => void} report - called with the share that is done, 0 to 1.
 */
export async function colorize(image, ort, session, report) {
    report(0);
    await breathe();
    const [width, height] = inputSize(image.width, image.height);
    const values = condition(image, width, height);
    const given = new ort.Tensor('float32', values, [1, height, width, 1]);
    const { ab } = await session.run({ condition: given });
    report(0.5);
    const columns = taps(image.width, width);
    const rows = taps(image.height, height);
    const step = Math.max(1, Math.floor(STRIP / image.width));
    for (let top = 0; top < image.height; top += step) {
        const bottom = Math.min(top + step, image.height);
        recolor(image, ab.data, [width, height], columns, rows, top, bottom);
        report(0.5 + bottom / image.height / 2);
        await breathe();
    }
}
