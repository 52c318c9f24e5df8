import { assert, assertEquals } from "@std/assert";
import { undominated } from "../../../compiler/allocate/frontier.ts";
import { finalists, searchAllocations } from "../../../compiler/allocate/search.ts";
import { random } from "../../../ir/random.ts";

/** Losses that add up, but for pairs of neighbours at different widths: these pay extra, as learned widths do. */
function measureWith(sensitivity: readonly number[], friction: number) {
  const asked: string[] = [];
  const lossOf = (digits: string): number =>
    [...digits].reduce((sum, digit, i) => {
      const parts = i > 0 && digit !== digits[i - 1] ? friction : 0;
      return sum + (sensitivity[i] ?? 0) * 4 ** -Number(digit) + parts;
    }, 0);
  const measure = (allocations: readonly string[]) => {
    asked.push(...allocations);
    return Promise.resolve(allocations.map(lossOf));
  };
  return { asked, lossOf, measure };
}

/** The least loss under a budget, by trying everything. */
function bruteForce(
  counts: readonly number[],
  widths: readonly number[],
  budget: number,
  lossOf: (d: string) => number,
) {
  const total = counts.reduce((a, b) => a + b, 0);
  let best = Infinity;
  const walk = (digits: string, bits: number) => {
    if (bits > budget * total + 1e-9) return;
    if (digits.length === counts.length) best = Math.min(best, lossOf(digits));
    else for (const width of widths) walk(digits + width, bits + width * (counts[digits.length] ?? 0));
  };
  walk("", 0);
  return best;
}

const WIDTHS = [2, 3, 4];

Deno.test("searchAllocations() finds the best mixtures where losses add up", async () => {
  for (let seed = 0; seed < 10; seed++) {
    const rng = random(seed, "search"), counts = Array.from({ length: 6 }, () => 1 + rng.int(3));
    const { measure, lossOf } = measureWith(counts.map((count) => count * Math.exp(rng.normal())), 0);
    const points = undominated(
      await searchAllocations({ counts, widths: WIDTHS, candidates: [], measure, rounds: 2, draws: 4 }),
    );
    for (const budget of [2.25, 2.5, 3, 3.5]) {
      const found = points.filter(({ meanBits }) => meanBits <= budget + 1e-9).at(-1)?.loss ?? Infinity;
      const best = bruteForce(counts, WIDTHS, budget, lossOf);
      assert(found <= best * 1.05 + 1e-12, `seed ${seed}, ${budget} bits: ${found} against ${best}`);
    }
  }
});

Deno.test("searchAllocations() measures every allocation once, and reports what was measured", async () => {
  const { measure, asked, lossOf } = measureWith([3, 1, 2, 1], 0.01);
  const points = await searchAllocations({
    counts: [2, 1, 1, 1],
    widths: WIDTHS,
    candidates: ["2343"],
    measure,
    rounds: 2,
    draws: 8,
  });
  assertEquals(new Set(asked).size, asked.length);
  assertEquals(points.map(({ widths }) => widths), asked);
  for (const { widths, loss, meanBits } of points) {
    assertEquals(loss, lossOf(widths));
    assertEquals(meanBits, (2 * Number(widths[0]) + Number(widths[1]) + Number(widths[2]) + Number(widths[3])) / 5);
  }
  for (const known of ["2222", "3333", "4444", "2343"]) assert(asked.includes(known));
});

Deno.test("searchAllocations() sees frictions that sums of single losses do not", async () => {
  // One site more costs less than the friction of a mixture: the uniform allocation stays.
  const { measure } = measureWith([1, 1, 1, 1], 1);
  const input = { counts: [1, 1, 1, 1], widths: WIDTHS, candidates: [], rounds: 1, draws: 8 };
  const points = await searchAllocations({ ...input, measure });
  assertEquals(undominated(points).map(({ widths }) => widths), ["2222", "3333", "4444"]);
});

Deno.test("searchAllocations() draws allocations that single losses do not lead to", async () => {
  // Around 3 bits narrower sites cost little more than wider ones gain, and what two cost together only measuring tells.
  const best = { without: 0, drawn: 0 }, sites = 12;
  for (let seed = 0; seed < 10; seed++) {
    const rng = random(seed, "pairs"), spread = () => Math.exp(rng.normal());
    const single = Array.from({ length: sites }, () => ({ 2: 0.03 * spread(), 3: 0, 4: -0.005 * spread() }));
    const pairs = Array.from({ length: sites }, () => Array.from({ length: sites }, () => 0.01 * rng.normal()));
    const lossOf = (digits: string): number =>
      [...digits].reduce((sum, digit, i) => {
        const others = digit === "3" ? [] : [...digits].slice(0, i);
        const together = others.map((other, j) => other === "3" ? 0 : pairs[i]?.[j] ?? 0);
        return together.reduce((a, b) => a + b, sum + (single[i]?.[Number(digit) as 2 | 3 | 4] ?? 0));
      }, 1);
    const measure = (all: readonly string[]) => Promise.resolve(all.map(lossOf));
    const input = { counts: Array<number>(sites).fill(1), widths: WIDTHS, candidates: [], measure, rounds: 1 };
    for (const [kind, draws] of [["without", 0], ["drawn", 32]] as const) {
      const points = undominated(await searchAllocations({ ...input, draws }));
      best[kind] += points.findLast(({ meanBits }) => meanBits <= 3)?.loss ?? Infinity;
    }
  }
  assert(best.drawn < best.without - 0.03, `${best.drawn} with draws, ${best.without} without`);
});

Deno.test("finalists() are the best of every small range of budgets, more where usual budgets end one, and all equal widths", () => {
  const point = (widths: string, meanBits: number, loss: number) => ({ widths, meanBits, loss });
  const points = [
    point("2222", 2, 9),
    point("2322", 2.01, 8),
    point("2232", 2.02, 7),
    point("3233", 2.99, 3),
    point("3333", 3, 3.1),
    point("2424", 3, 2.9),
    point("2442", 3, 3.2),
    point("4242", 2.98, 3.3),
    point("4422", 2.99, 3.4),
    point("3334", 3.001, 2),
  ];
  assertEquals(
    new Set(finalists(points).map(({ widths }) => widths)),
    // Four of the range that ends with 3 bits.
    new Set(["2222", "2232", "2424", "3233", "3333", "2442", "3334"]),
  );
});
