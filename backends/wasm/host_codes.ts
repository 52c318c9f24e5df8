/** Writes and reads packed codes on the host: what kernels and the backend's users exchange. */
import { spreadTwos, TWOS_PER_BYTE } from "../stored.ts";
import { type Layout, regionsOf } from "./layout.ts";
import { packingOf, spareBits } from "./packing.ts";

/**
 * Visits the units of all rows: the row, the first column (which may lie in the padding), the first byte, and the bytes of a plane.
 * The columns of slot s are those from `column + s·plane` on.
 */
function eachUnit(
  { rows, columns, rowBytes, bits }: Layout,
  visit: (row: number, column: number, at: number, plane: number) => void,
): void {
  const { slots } = packingOf(bits), regions = regionsOf(columns, bits);
  for (let row = 0; row < rows; row++) {
    for (const { plane, start, units } of regions) {
      for (let unit = 0; unit < units; unit++) {
        const column = start + unit * slots.length * plane;
        visit(row, column, row * rowBytes + column * bits / 8, plane);
      }
    }
  }
}

/** Writes codes, row after row. */
export function pack(layout: Layout, values: ArrayLike<number>, bytes: Uint8Array): void {
  const { columns, bits } = layout, { slots, hasMean } = packingOf(bits);
  if (hasMean) return packMeans(layout, values, bytes);
  bytes.fill(0);
  eachUnit(layout, (row, column, at, stride) =>
    slots.forEach((pieces, s) => {
      const first = column + s * stride, count = Math.min(stride, columns - first), element = row * columns + first;
      for (const { plane, shift, bits, low } of pieces) {
        const mask = (1 << bits) - 1, to = at + plane * stride;
        for (let i = 0; i < count; i++) {
          bytes[to + i] = (bytes[to + i] as number) | ((values[element + i] as number) >> low & mask) << shift;
        }
      }
    }));
}

/** `planesOf` of all units, without an array for each of their bytes: sessions read adapters so at every switch. */
function packMeans(layout: Layout, values: ArrayLike<number>, bytes: Uint8Array): void {
  const { columns, bits } = layout, packing = packingOf(bits), { planes, slots, whole, step } = packing;
  const perPlane = whole / planes, codes = new Uint8Array(slots.length), top = 2 ** bits - 1;
  const spare = Uint8Array.from({ length: planes }, (_, p) => spareBits(packing, p));
  const packByte = (at: number, stride: number) => {
    let mean = 0, missing = 0;
    for (let p = planes - 1; p >= 0; p--) {
      let byte = 0;
      for (let f = 0; f < perPlane; f++) byte |= (codes[p * perPlane + f] as number) << f * step;
      bytes[at + p * stride] = byte;
      mean = (byte + mean + 1) >> 1;
    }
    for (let f = 0; f < perPlane; f++) {
      const own = (((codes[whole + f] as number) - (mean >> f * step)) & top) << f * step;
      mean += own;
      missing |= own;
    }
    for (let p = 0; p < planes; p++) {
      const to = at + p * stride;
      bytes[to] = (bytes[to] as number) | (missing & (spare[p] as number)) << p + 1;
    }
  };
  eachUnit(layout, (row, column, at, stride) => {
    for (let i = 0; i < stride; i++) {
      for (let s = 0, c = column + i; s < codes.length; s++, c += stride) {
        codes[s] = c < columns ? values[row * columns + c] as number : 0;
      }
      packByte(at + i, stride);
    }
  });
}

/** Writes codes of two bits that come as files hold them, four to a byte. A unit has four slots, whose codes are neighbours there. */
export function packTwos(layout: Layout, stored: Uint8Array, words: Uint32Array): void {
  const rowStored = layout.columns / TWOS_PER_BYTE;
  eachUnit(layout, (row, column, at, stride) => {
    const from = row * rowStored, end = from + rowStored;
    spreadTwos(stored, from + column / TWOS_PER_BYTE, end, stride / 4, words, at / 4);
  });
}

/** Reads all codes, row after row. */
export function unpack(layout: Layout, bytes: Uint8Array): Int32Array {
  const { rows, columns } = layout, values = new Int32Array(rows * columns), { slots, planes } = packingOf(layout.bits);
  eachUnit(layout, (row, column, at, stride) =>
    slots.forEach((pieces, s) => {
      const first = column + s * stride, count = Math.min(stride, columns - first), element = row * columns + first;
      for (const { plane, shift, bits, low } of pieces) {
        const mask = (1 << bits) - 1;
        for (let i = 0; i < count; i++) {
          let byte = 0;
          if (plane < planes) byte = bytes[at + plane * stride + i] as number;
          else for (let p = planes - 1; p >= 0; p--) byte = ((bytes[at + p * stride + i] as number) + byte + 1) >> 1;
          values[element + i] = (values[element + i] as number) | (byte >> shift & mask) << low;
        }
      }
    }));
  return values;
}
