/**
 * Paley's two families of Hadamard matrices (R. Paley, "On orthogonal matrices", 1933), built from the quadratic character of a
 * finite field. Both border the Jacobsthal matrix J[i][j] = character(a_i - a_j).
 */
import type { FiniteField } from "./finite_field.ts";

/**
 * Paley I for q ≡ 3 (mod 4): the order q+1 matrix I + S, S = [[0, 1ᵀ], [-1, J]]. Row-major, not symmetric.
 */
export function paleyOne(field: FiniteField): Int8Array {
  const n = field.order + 1;
  const h = bordered(field, -1);
  for (let i = 0; i < n; i++) h[i * n + i] = 1;
  return h;
}

/**
 * Paley II for q ≡ 1 (mod 4): the order 2(q+1) matrix C ⊗ [[1, 1], [1, -1]] + I ⊗ [[1, -1], [-1, -1]], where
 * C = [[0, 1ᵀ], [1, J]] is symmetric, and so is the result. Row-major.
 */
export function paleyTwo(field: FiniteField): Int8Array {
  const n = field.order + 1;
  const conference = bordered(field, 1);
  const h = new Int8Array(4 * n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const [a, b, d] = i === j ? [1, -1, -1] : repeat(conference[i * n + j] ?? 0);
      const at = 4 * i * n + 2 * j;
      h.set([a, b], at);
      h.set([b, d], at + 2 * n);
    }
  }
  return h;
}

/** The blocks c·[[1, 1], [1, -1]] as upper left, off-diagonal and lower right entry. */
const repeat = (c: number): [number, number, number] => [c, c, -c];

/** [[0, 1ᵀ], [corner·1, J]], row-major. */
function bordered(field: FiniteField, corner: 1 | -1): Int8Array {
  const n = field.order + 1;
  const s = new Int8Array(n * n);
  for (let j = 1; j < n; j++) s[j] = 1;
  for (let i = 1; i < n; i++) {
    s[i * n] = corner;
    for (let j = 1; j < n; j++) s[i * n + j] = field.character(field.subtract(i - 1, j - 1));
  }
  return s;
}
