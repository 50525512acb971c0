// sRGB and CIELAB of white point D65, as scikit-image's rgb2lab and lab2rgb compute them.

const WHITE = [0.95047, 1, 1.08883];
const TO_XYZ = [
    [0.412453, 0.35758, 0.180423],
    [0.212671, 0.71516, 0.072169],
    [0.019334, 0.119193, 0.950227],
];
const FROM_XYZ = inverse(TO_XYZ);
const LINEAR = Float64Array.from({ length: 256 }, (_, byte) => linear(byte / 255));

function linear(value) {
    return value > 0.04045 ? ((value + 0.055) / 1.055) ** 2.4 : value / 12.92;
}

function inverse([[a, b, c], [d, e, f], [g, h, i]]) {
    const cofactors = [
        [e * i - f * h, c * h - b * i, b * f - c * e],
        [f * g - d * i, a * i - c * g, c * d - a * f],
        [d * h - e * g, b * g - a * h, a * e - b * d],
    ];
    const determinant = a * cofactors[0][0] + b * cofactors[1][0] + c * cofactors[2][0];
    return cofactors.map((row) => row.map((value) => value / determinant));
}

function f(t) {
    return t > 0.008856 ? Math.cbrt(t) : 7.787 * t + 16 / 116;
}

function fInverse(t) {
    return t > 0.2068966 ? t ** 3 : (t - 16 / 116) / 7.787;
}

/** L* in [0, 100] of sRGB, 0 to 255 each. */
export function lightness(red, green, blue) {
    const [r, g, b] = TO_XYZ[1];
    return 116 * f(r * LINEAR[red] + g * LINEAR[green] + b * LINEAR[blue]) - 16;
}

/** [L*, a*, b*] of sRGB, 0 to 255 each. */
export function toLab(red, green, blue) {
    const rgb = [LINEAR[red], LINEAR[green], LINEAR[blue]];
    const [x, y, z] = TO_XYZ.map(
        (row, i) => f((row[0] * rgb[0] + row[1] * rgb[1] + row[2] * rgb[2]) / WHITE[i]),
    );
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

/** Writes sRGB, 0 to 255 each, of a colour in CIELAB into out[at], out[at + 1] and out[at + 2]. */
export function toRgb(l, a, b, out, at) {
    const y = (l + 16) / 116;
    const x = fInverse(y + a / 500) * WHITE[0];
    const z = fInverse(Math.max(y - b / 200, 0)) * WHITE[2];
    const middle = fInverse(y);
    for (let i = 0; i < 3; i += 1) {
        const row = FROM_XYZ[i];
        const value = row[0] * x + row[1] * middle + row[2] * z;
        const encoded = value > 0.0031308 ? 1.055 * value ** (1 / 2.4) - 0.055 : 12.92 * value;
        out[at + i] = Math.round(255 * encoded); // out is clamped
    }
}
