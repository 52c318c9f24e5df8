/**
 * Seeded random numbers that every part of the compiler draws from: widths per calibration step, initial adapters, signs of
 * rotations.
 *
 * The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). It is counter-based: the
 * numbers are a keyed bijection of a counter, so the whole state is a position, streams need no jumping ahead, and a run that
 * was stopped continues with exactly the numbers it would have drawn. The seed is the key; the upper half of the counter is a
 * hash of the stream's name, the lower half its position, so no two streams overlap.
 */

/** Everything needed to continue a stream: plain data that survives JSON. */
export interface RandomState {
  readonly seed: number;
  readonly stream: string;
  /** Number of 32-bit words drawn so far. */
  readonly position: number;
}

/** One stream of reproducible random numbers. */
export interface Random {
  /** Uniform in [0, 1), a multiple of 2^-53. */
  uniform(): number;
  /** Uniform among the integers 0 … n-1, without bias; n is an integer from 1 to 2^32. */
  int(n: number): number;
  /** Standard normal. */
  normal(): number;
  /** -1 or +1 with equal chance. */
  sign(): -1 | 1;
  /** The present state, for `resumeRandom`. */
  state(): RandomState;
}

/**
 * Starts the stream of the given name. Equal seed and name give equal numbers; streams of different names are independent.
 *
 * @param seed A safe integer, 0 or larger.
 * @param stream Names the use, for example `calibrate.block.3.bits`.
 * @throws {RangeError} If the seed is not such an integer.
 */
export function random(seed: number, stream: string): Random {
  return resumeRandom({ seed, stream, position: 0 });
}

/**
 * Continues a stream where `state()` was taken.
 *
 * @throws {RangeError} If seed or position is not a safe integer of 0 or larger.
 */
export function resumeRandom({ seed, stream, position }: RandomState): Random {
  requireNatural(seed, "seed");
  requireNatural(position, "position");
  const [key0, key1] = words(seed);
  const hash = fnv1a(stream);
  let drawn = position;
  let block = -1;
  let numbers: Words4 = [0, 0, 0, 0];

  const word = (): number => {
    const wanted = Math.floor(drawn / 4);
    if (wanted !== block) {
      block = wanted;
      const [low, high] = words(block);
      numbers = philox([low, high, hash[0], hash[1]], [key0, key1]);
    }
    return numbers[(drawn++ % 4) as 0 | 1 | 2 | 3];
  };
  const uniform = (): number => {
    const high = word() >>> 5;
    return (high * 2 ** 26 + (word() >>> 6)) / 2 ** 53;
  };

  return {
    uniform,
    int(n) {
      if (!Number.isInteger(n) || n < 1 || n > 2 ** 32) {
        throw new RangeError(`Expected the number of choices to be an integer from 1 to 2^32 but found ${n}`);
      }
      const fair = 2 ** 32 - 2 ** 32 % n; // words from here on would favour the small remainders
      let value = word();
      while (value >= fair) value = word();
      return value % n;
    },
    // Box-Muller without its second value, which would be state besides the position.
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
    sign: () => word() < 2 ** 31 ? -1 : 1,
    state: () => ({ seed, stream, position: drawn }),
  };
}

type Words4 = readonly [number, number, number, number];

/** Philox4x32 with ten rounds: 128 random bits from a counter and a key, all as unsigned 32-bit words. */
export function philox(counter: Words4, key: readonly [number, number]): Words4 {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0);
    const low0 = Math.imul(0xd2511f53, c0);
    const high1 = multiplyHigh(0xcd9e8d57, c2);
    const low1 = Math.imul(0xcd9e8d57, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) | 0; // the golden ratio
    k1 = (k1 + 0xbb67ae85) | 0; // √3 - 1
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
}

/** Upper 32 bits of the 64-bit product of two unsigned words; no partial sum reaches 2^32. */
function multiplyHigh(a: number, b: number): number {
  const aHigh = a >>> 16;
  const aLow = a & 0xffff;
  const bHigh = b >>> 16;
  const bLow = b & 0xffff;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = aLow * bHigh + (middle & 0xffff);
  return aHigh * bHigh + (middle >>> 16) + (carry >>> 16);
}

/** 64-bit FNV-1a hash of a string's UTF-8 bytes, as low and high word. */
export function fnv1a(text: string): readonly [low: number, high: number] {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(text)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return [Number(hash & 0xffffffffn), Number(hash >> 32n)];
}

/** Low and high 32-bit word of a natural number below 2^53. */
const words = (n: number): [low: number, high: number] => [n % 2 ** 32, Math.floor(n / 2 ** 32)];

function requireNatural(value: number, what: string): void {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`Expected the ${what} to be a non-negative safe integer but found ${value}`);
  }
}
