/**
 * The little of finite fields that Paley's matrices need: differences of elements, and which elements are squares.
 * Orders p and p^2 suffice: every Paley matrix of order up to 1024 over a higher power has an equal or smaller rival.
 */

/** A finite field GF(q) of odd order whose elements are numbered 0 … q-1, with 0 the zero. */
export interface FiniteField {
  readonly order: number;
  /** Number of the element a - b. */
  subtract(a: number, b: number): number;
  /** Quadratic character of an element: 0 for zero, +1 for a nonzero square, -1 otherwise. */
  character(a: number): -1 | 0 | 1;
}

/** Whether n is a prime number, by trial division. */
export function isPrime(n: number): boolean {
  if (!Number.isInteger(n) || n < 2) return false;
  for (let d = 2; d * d <= n; d++) if (n % d === 0) return false;
  return true;
}

/**
 * The field of q elements, or undefined where q is neither an odd prime nor the square of one.
 *
 * GF(p^2) is GF(p) with a root of a non-square c adjoined: element x + y·√c has the number x + p·y.
 */
export function finiteField(q: number): FiniteField | undefined {
  if (q > 2 && isPrime(q)) return primeField(q);
  const p = Math.round(Math.sqrt(q));
  return p * p === q && p > 2 && isPrime(p) ? squareField(p) : undefined;
}

function primeField(p: number): FiniteField {
  const squares = new Set<number>();
  for (let a = 1; a < p; a++) squares.add((a * a) % p);
  return {
    order: p,
    subtract: (a, b) => (a - b + p) % p,
    character: (a) => a === 0 ? 0 : squares.has(a) ? 1 : -1,
  };
}

function squareField(p: number): FiniteField {
  const base = primeField(p);
  let nonSquare = 2;
  while (base.character(nonSquare) !== -1) nonSquare++;
  const squares = new Set<number>();
  for (let x = 0; x < p; x++) {
    for (let y = 0; y < p; y++) squares.add((x * x + nonSquare * y * y) % p + p * ((2 * x * y) % p));
  }
  return {
    order: p * p,
    subtract: (a, b) => base.subtract(a % p, b % p) + p * base.subtract(Math.floor(a / p), Math.floor(b / p)),
    character: (a) => a === 0 ? 0 : squares.has(a) ? 1 : -1,
  };
}
