/**
 * Dimensions of shapes. A dimension is a positive integer, or a product of symbols such as `4*B*T`
 * (`T` tokens, `S` context, `B` batch), which `bindSymbols` replaces by numbers before lowering.
 *
 * A product is the only symbolic form: attention over `S` and rows of `B*T` tokens need no sums, and products have a
 * normal form, so that equality of dimensions is equality of values.
 */

/** A positive integer, or the normal form of a symbolic product: `4*B*T`, factors sorted, coefficient first. */
export type Dim = number | string;

/** What each symbol stands for. */
export type Symbols = Readonly<Record<string, number>>;

interface Product {
  readonly coefficient: number;
  readonly symbols: readonly string[];
}

const SYMBOL = /^[A-Z][A-Za-z0-9]*$/;

function productOf(dim: Dim): Product {
  if (typeof dim === "number") return { coefficient: dim, symbols: [] };
  let coefficient = 1;
  const symbols: string[] = [];
  for (const factor of dim.split("*")) {
    if (/^\d+$/.test(factor)) coefficient *= Number(factor);
    else if (SYMBOL.test(factor)) symbols.push(factor);
    else throw new RangeError(`Expected a product of integers and symbols such as "4*B*T" but found "${dim}"`);
  }
  return { coefficient, symbols: symbols.sort() };
}

function dimOf({ coefficient, symbols }: Product): Dim {
  if (symbols.length === 0) return coefficient;
  return coefficient === 1 ? symbols.join("*") : [coefficient, ...symbols].join("*");
}

/** The product of dimensions, in normal form. */
export function multiplyDims(dims: readonly Dim[]): Dim {
  const products = dims.map(productOf);
  return dimOf({
    coefficient: products.reduce((all, { coefficient }) => all * coefficient, 1),
    symbols: products.flatMap(({ symbols }) => symbols).sort(),
  });
}

/** `a / b` when it is a whole dimension, otherwise `undefined`. */
export function divideDims(a: Dim, b: Dim): Dim | undefined {
  const over = productOf(a), under = productOf(b);
  const rest = [...over.symbols];
  for (const symbol of under.symbols) {
    const at = rest.indexOf(symbol);
    if (at < 0) return undefined;
    rest.splice(at, 1);
  }
  const coefficient = over.coefficient / under.coefficient;
  return Number.isInteger(coefficient) ? dimOf({ coefficient, symbols: rest }) : undefined;
}

/** The dimension in normal form; throws a `RangeError` when it is not a dimension at all. */
export function normalDim(dim: Dim): Dim {
  if (typeof dim === "number" && !(Number.isSafeInteger(dim) && dim > 0)) {
    throw new RangeError(`Expected a positive integer dimension but found ${dim}`);
  }
  const product = productOf(dim);
  if (product.coefficient < 1) throw new RangeError(`Expected a positive dimension but found "${dim}"`);
  return dimOf(product);
}

/** Replaces the symbols that are given; others stay. */
export function bindDim(dim: Dim, symbols: Symbols): Dim {
  if (typeof dim === "number") return dim;
  return multiplyDims(
    dim.split("*").map((factor) => symbols[factor] ?? (SYMBOL.test(factor) ? factor : Number(factor))),
  );
}

/** The dimension as a number; throws when symbols are left in it. */
export function concreteDim(dim: Dim): number {
  if (typeof dim === "number") return dim;
  throw new RangeError(`Expected a number but found the symbolic dimension "${dim}"; bind its symbols first`);
}
