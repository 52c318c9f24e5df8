/**
 * Hadamard matrices of order 4n from four circulants A, B, C, D of order n with AAᵀ + BBᵀ + CCᵀ + DDᵀ = 4n·I, for the orders
 * that Paley's families miss. Symmetric circulants go into Williamson's array, others into that of Goethals and Seidel.
 * The first rows were found by exhaustive search over sequences constant on the orbits of a multiplier group.
 */

/** First rows of the four circulants, `+` for +1 and `-` for -1, and the array that makes a Hadamard matrix of them. */
export interface CirculantRows {
  readonly array: "williamson" | "goethals-seidel";
  readonly rows: readonly [a: string, b: string, c: string, d: string];
}

const STORED: ReadonlyMap<number, CirculantRows> = new Map<number, CirculantRows>([
  [92, {
    array: "williamson",
    rows: [
      "+--++---+-+--+-+---++--",
      "+-+++++---+--+---+++++-",
      "++-+-++-+--++--+-++-+-+",
      "+---+++++++--+++++++---",
    ],
  }],
  [116, {
    array: "williamson",
    rows: [
      "+++--+++-+-++-++-++-+-+++--++",
      "++-++++----+--++--+----++++-+",
      "+--++-+-+-++++--++++-+-+-++--",
      "++-+++------+-++-+------+++-+",
    ],
  }],
  [156, {
    array: "goethals-seidel",
    rows: [
      "+---+-++--+-+--+-+++---+-++-+-++--+-+++",
      "++------+--++++-++-++++++-+-++++-+-++-+",
      "+---+-+---+---++--++-+--+++-++-+-+-+---",
      "++-++--+++++----++--++++++++-----++--++",
    ],
  }],
  [172, {
    array: "williamson",
    rows: [
      "+--+++--+----+-+--++-++-++--+-+----+--+++--",
      "+-+++----+-++-++--++++++++--++-++-+----+++-",
      "+-+-++--+-+-++++++-+----+-++++++-+-+--++-+-",
      "++++-++++---+++---+--++--+---+++---++++-+++",
    ],
  }],
]);

/** The stored circulants that make a Hadamard matrix of the given order, or undefined. */
export function circulantRows(order: number): CirculantRows | undefined {
  return STORED.get(order);
}

/** The Hadamard matrix of order 4n made of four circulants of order n, row-major. */
export function circulantHadamard({ array, rows }: CirculantRows): Int8Array {
  return array === "williamson" ? williamson(rows) : goethalsSeidel(rows);
}

type Rows = CirculantRows["rows"];

/** Entry (i, j) of an order n block. */
type Block = (i: number, j: number) => number;
const negated = (block: Block): Block => (i, j) => -block(i, j);

/** [[A, B, C, D], [-B, A, -D, C], [-C, D, A, -B], [-D, -C, B, A]]. */
function williamson(rows: Rows): Int8Array {
  const [a, b, c, d] = circulants(rows);
  return assemble(rows[0].length, [
    [a, b, c, d],
    [negated(b), a, negated(d), c],
    [negated(c), d, a, negated(b)],
    [negated(d), negated(c), b, a],
  ]);
}

/** As Williamson's, with B, C, D multiplied by the exchange matrix R, and transposed where they meet one another. */
function goethalsSeidel(rows: Rows): Int8Array {
  const n = rows[0].length;
  const [a, b, c, d] = circulants(rows);
  const flipped = (block: Block): Block => (i, j) => block(i, n - 1 - j); // block·R
  const turned = (block: Block): Block => (i, j) => block(n - 1 - j, i); // blockᵀ·R
  return assemble(n, [
    [a, flipped(b), flipped(c), flipped(d)],
    [negated(flipped(b)), a, turned(d), negated(turned(c))],
    [negated(flipped(c)), negated(turned(d)), a, turned(b)],
    [negated(flipped(d)), turned(c), negated(turned(b)), a],
  ]);
}

/** circ(row)[i][j] = row[(j - i) mod n]. */
function circulants(rows: Rows): [Block, Block, Block, Block] {
  const circulant = (row: string): Block => (i, j) => row[(j - i + row.length) % row.length] === "+" ? 1 : -1;
  return [circulant(rows[0]), circulant(rows[1]), circulant(rows[2]), circulant(rows[3])];
}

function assemble(n: number, blocks: readonly (readonly Block[])[]): Int8Array {
  const h = new Int8Array(16 * n * n);
  blocks.forEach((line, bi) =>
    line.forEach((block, bj) => {
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < n; j++) h[(bi * n + i) * 4 * n + bj * n + j] = block(i, j);
      }
    })
  );
  return h;
}
