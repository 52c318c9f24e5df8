/** Markers that passes act on (`hold`, `site`) and `update`, the one operation with memory behind it. */
import { stringAttr } from "../node.ts";
import { isInteger, sizeOf } from "../types.ts";
import { operand, type OpRecord, shapeError } from "./record.ts";

/** When a value becomes known; see `compiler/passes/stage.ts`. */
export const BINDING_TIMES = ["checkpoint", "calibration", "configuration", "token"] as const;
/** When a value becomes known. */
export type BindingTime = (typeof BINDING_TIMES)[number];

/** The checked binding time of a `param` or `hold`. */
export function bindingTimeOf(text: string): BindingTime {
  const found = BINDING_TIMES.find((time) => time === text);
  if (!found) throw new TypeError(`Expected one of ${BINDING_TIMES.join(", ")} as binding time but found "${text}"`);
  return found;
}

/** What a quantizer site is. */
export const SITE_ROLES = ["weight", "adapter", "activation", "key", "value"] as const;
/** What a quantizer site is: a weight, the adapter added to it, a linear's input, or a cached key or value. */
export type SiteRole = (typeof SITE_ROLES)[number];

/** The checked role of a `site`. */
export function siteRoleOf(text: string): SiteRole {
  const found = SITE_ROLES.find((role) => role === text);
  if (!found) throw new TypeError(`Expected one of ${SITE_ROLES.join(", ")} as role of a site but found "${text}"`);
  return found;
}

const hold: OpRecord = {
  doc: "y = x, stored under `name` by the program of binding time `time`; `stage` cuts here and nowhere else",
  class: "marker",
  arity: 1,
  attrs: { time: "text", name: "text" },
  infer: (inputs, attrs) => {
    bindingTimeOf(stringAttr(attrs, "time"));
    return operand(inputs, 0);
  },
  evaluate: (inputs) => operand(inputs, 0).data.slice(),
  vjp: (_, __, dy) => [dy],
  operations: () => 0,
};

const site: OpRecord = {
  doc:
    "y = x at 16 bits; `specialize` puts the quantizer or adapter of the site `name` here for smaller widths, which reads the rest",
  class: "marker",
  arity: [1, 15],
  attrs: { name: "text", role: "text" },
  infer: (inputs, attrs) => {
    siteRoleOf(stringAttr(attrs, "role"));
    return operand(inputs, 0);
  },
  evaluate: (inputs) => operand(inputs, 0).data.slice(),
  vjp: (_, { inputs }, dy) => inputs.map((_, i) => i === 0 ? dy : undefined),
  operations: () => 0,
};

const update: OpRecord = {
  doc:
    "cache with cache[b, positions[b,t], …] = rows[b, t, …]; positions outside are dropped; the old cache must not be used again",
  class: "state",
  arity: 3,
  attrs: {},
  infer: (inputs) => {
    const [cache, rows, positions] = [operand(inputs, 0), operand(inputs, 1), operand(inputs, 2)];
    const fits = cache.dtype === rows.dtype && cache.shape.length >= 2 && cache.shape[0] === rows.shape[0] &&
      cache.shape.length === rows.shape.length && cache.shape.slice(2).every((dim, i) => dim === rows.shape[i + 2]) &&
      isInteger(positions.dtype) && positions.shape.length === 2 &&
      positions.shape.every((dim, i) => dim === rows.shape[i]);
    if (!fits) throw shapeError("update", "cache [B,S,…], rows [B,T,…] of one type and positions i32[B,T]", inputs);
    return cache;
  },
  evaluate: (inputs) => {
    const [cache, rows, positions] = [operand(inputs, 0), operand(inputs, 1), operand(inputs, 2)];
    const [, S] = cache.type.shape.map(Number), [, T] = rows.type.shape.map(Number);
    const width = sizeOf(cache.type.shape.slice(2)), result = cache.data.slice();
    positions.data.forEach((position, i) => {
      if (position < 0 || position >= (S ?? 0)) return;
      const to = (Math.floor(i / (T ?? 1)) * (S ?? 0) + position) * width;
      result.set(rows.data.subarray(i * width, (i + 1) * width), to);
    });
    return result;
  },
  operations: () => 0,
};

/** Markers of the op table. */
export const MARKERS = { hold, site } satisfies Record<string, OpRecord>;
/** Operations with memory. */
export const STATES = { update } satisfies Record<string, OpRecord>;
