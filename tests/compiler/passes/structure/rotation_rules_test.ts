import { assert } from "@std/assert";
import { ROTATION_RULES } from "../../../../compiler/passes/structure/rotation_rules.ts";
import type { Graph } from "../../../../ir/node.ts";
import { parse } from "../../../../ir/parse.ts";
import { rewriteToFixpoint } from "../../../../ir/rewrite.ts";
import { evaluateRandomly } from "../../../support/evaluate_randomly.ts";
import { expectGraph } from "../../../support/expect_graph.ts";
import { maxDifference } from "../../../support/run_module.ts";

/** Sizes of 12 throughout: H_12 is not symmetric, so that a missing transpose would show in the numbers. */
const X = '%x = input {name="x", type="f32[3,12]"} : f32[3,12]';
const Y = '%y = input {name="y", type="f32[3,12]"} : f32[3,12]';
const S = '%s = param {name="s", time="checkpoint", type="f32[12]"} : f32[12]';
const W = '%w = param {name="w", time="checkpoint", type="f32[5,12]"} : f32[5,12]';
const V = '%v = param {name="v", time="checkpoint", type="f32[12,12]"} : f32[12,12]';
const B = '%b = param {name="b", time="checkpoint", type="f32[12]"} : f32[12]';
const RX = `${X}\n${S}\n%rx = hadamard %x %s {axis=1} : f32[3,12]`;
const RY = `${Y}\n%ry = hadamard %y %s {axis=1} : f32[3,12]`;

const CASES: Readonly<Record<string, readonly [before: string, after: string]>> = {
  "R⁻¹ R x = x": [
    `${RX}
     %r = hadamard %rx %s {axis=1, transposed=true} : f32[3,12]
     return r=%r`,
    `${X}
     return r=%x`,
  ],
  "Σ (R x)² = Σ x²": [
    `${RX}
     %q = mul %rx %rx : f32[3,12]
     %r = sum %q {axes=[1]} : f32[3,1]
     return r=%r`,
    `${X}
     %q = mul %x %x : f32[3,12]
     %r = sum %q {axes=[1]} : f32[3,1]
     return r=%r`,
  ],
  "Σ (R x)² over another axis stays": [
    `${RX}
     %q = mul %rx %rx : f32[3,12]
     %r = sum %q {axes=[0]} : f32[1,12]
     return r=%r`,
    `${RX}
     %q = mul %rx %rx : f32[3,12]
     %r = sum %q {axes=[0]} : f32[1,12]
     return r=%r`,
  ],
  "c · (R x) / d = R (c · x / d) for c and d constant along the axis": [
    `%c = input {name="c", type="f32[3,1]"} : f32[3,1]
     %cb = broadcast %c {shape=[3,12]} : f32[3,12]
     %d = constant {type="f32[3,12]", values=[3]} : f32[3,12]
     ${RX}
     %p = mul %cb %rx : f32[3,12]
     %r = div %p %d : f32[3,12]
     return r=%r`,
    `%c = input {name="c", type="f32[3,1]"} : f32[3,1]
     %cb = broadcast %c {shape=[3,12]} : f32[3,12]
     %d = constant {type="f32[3,12]", values=[3]} : f32[3,12]
     ${X}
     %p = mul %cb %x : f32[3,12]
     %q = div %p %d : f32[3,12]
     ${S}
     %r = hadamard %q %s {axis=1} : f32[3,12]
     return r=%r`,
  ],
  "(R x) · g stays for a gain g": [
    `${RX}
     ${B}
     %g = broadcast %b {shape=[3,12]} : f32[3,12]
     %r = mul %rx %g : f32[3,12]
     return r=%r`,
    `${RX}
     ${B}
     %g = broadcast %b {shape=[3,12]} : f32[3,12]
     %r = mul %rx %g : f32[3,12]
     return r=%r`,
  ],
  "R x + R y = R (x + y)": [
    `${RX}
     ${RY}
     %r = add %rx %ry : f32[3,12]
     return r=%r`,
    `${X}
     ${Y}
     %q = add %x %y : f32[3,12]
     ${S}
     %r = hadamard %q %s {axis=1} : f32[3,12]
     return r=%r`,
  ],
  "y · V - R x = R (y · R⁻¹V - x)": [
    `${RX}
     ${Y}
     ${V}
     %p = dot %y %v {lhsContract=[1], rhsContract=[0]} : f32[3,12]
     %r = sub %p %rx : f32[3,12]
     return r=%r`,
    `${Y}
     ${V}
     ${S}
     %vr = hadamard %v %s {axis=1, transposed=true} : f32[12,12]
     %p = dot %y %vr {lhsContract=[1], rhsContract=[0]} : f32[3,12]
     ${X}
     %q = sub %p %x : f32[3,12]
     %r = hadamard %q %s {axis=1} : f32[3,12]
     return r=%r`,
  ],
  "R x + b = R (x + R⁻¹ b), rotated before it is repeated": [
    `${RX}
     ${B}
     %bb = broadcast %b {shape=[3,12]} : f32[3,12]
     %r = add %rx %bb : f32[3,12]
     return r=%r`,
    `${X}
     ${B}
     ${S}
     %br = hadamard %b %s {axis=0, transposed=true} : f32[12]
     %bb = broadcast %br {shape=[3,12]} : f32[3,12]
     %q = add %x %bb : f32[3,12]
     %r = hadamard %q %s {axis=1} : f32[3,12]
     return r=%r`,
  ],
  "R x + 2 = R (x + R⁻¹ 2), of one row": [
    `${RX}
     %2 = constant {type="f32[3,12]", values=[2]} : f32[3,12]
     %r = add %rx %2 : f32[3,12]
     return r=%r`,
    `${X}
     %2 = constant {type="f32[12]", values=[2]} : f32[12]
     ${S}
     %br = hadamard %2 %s {axis=0, transposed=true} : f32[12]
     %bb = broadcast %br {shape=[3,12]} : f32[3,12]
     %q = add %x %bb : f32[3,12]
     %r = hadamard %q %s {axis=1} : f32[3,12]
     return r=%r`,
  ],
  "R x + y stays where y is just given": [
    `${RX}
     ${Y}
     %r = add %rx %y : f32[3,12]
     return r=%r`,
    `${RX}
     ${Y}
     %r = add %rx %y : f32[3,12]
     return r=%r`,
  ],
  "(R x) · W = x · R⁻¹W": [
    `${RX}
     ${W}
     %r = dot %rx %w {lhsContract=[1], rhsContract=[1]} : f32[3,5]
     return r=%r`,
    `${X}
     ${W}
     ${S}
     %wr = hadamard %w %s {axis=1, transposed=true} : f32[5,12]
     %r = dot %x %wr {lhsContract=[1], rhsContract=[1]} : f32[3,5]
     return r=%r`,
  ],
  "W · (R⁻¹ x) = R W · x": [
    `${X}
     ${S}
     ${W}
     %rx = hadamard %x %s {axis=1, transposed=true} : f32[3,12]
     %r = dot %w %rx {lhsContract=[1], rhsContract=[1]} : f32[5,3]
     return r=%r`,
    `${W}
     ${S}
     %wr = hadamard %w %s {axis=1} : f32[5,12]
     ${X}
     %r = dot %wr %x {lhsContract=[1], rhsContract=[1]} : f32[5,3]
     return r=%r`,
  ],
  "(R x) · (R y) = x · y": [
    `${RX}
     ${RY}
     %r = dot %rx %ry {lhsContract=[1], rhsContract=[1]} : f32[3,3]
     return r=%r`,
    `${X}
     ${Y}
     %r = dot %x %y {lhsContract=[1], rhsContract=[1]} : f32[3,3]
     return r=%r`,
  ],
  "(R x) · (R⁻¹ y) stays": [
    `${RX}
     ${Y}
     %ry = hadamard %y %s {axis=1, transposed=true} : f32[3,12]
     %r = dot %rx %ry {lhsContract=[1], rhsContract=[1]} : f32[3,3]
     return r=%r`,
    `${RX}
     ${Y}
     %ry = hadamard %y %s {axis=1, transposed=true} : f32[3,12]
     %r = dot %rx %ry {lhsContract=[1], rhsContract=[1]} : f32[3,3]
     return r=%r`,
  ],
  "R (V · y)ᵀ = (R V · y)ᵀ": [
    `${Y}
     ${V}
     ${S}
     %p = dot %v %y {lhsContract=[0], rhsContract=[1]} : f32[12,3]
     %t = transpose %p {permutation=[1,0]} : f32[3,12]
     %r = hadamard %t %s {axis=1} : f32[3,12]
     return r=%r`,
    `${V}
     ${S}
     %vr = hadamard %v %s {axis=1} : f32[12,12]
     ${Y}
     %p = dot %vr %y {lhsContract=[0], rhsContract=[1]} : f32[12,3]
     %t = transpose %p {permutation=[1,0]} : f32[3,12]
     return r=%t`,
  ],
  "R (2 · (y · V)) = 2 · (y · R V)": [
    `${Y}
     ${V}
     ${S}
     %p = dot %y %v {lhsContract=[1], rhsContract=[0]} : f32[3,12]
     %2 = constant {type="f32[3,12]", values=[2]} : f32[3,12]
     %q = mul %2 %p : f32[3,12]
     %r = hadamard %q %s {axis=1} : f32[3,12]
     return r=%r`,
    `%2 = constant {type="f32[3,12]", values=[2]} : f32[3,12]
     ${Y}
     ${V}
     ${S}
     %vr = hadamard %v %s {axis=1} : f32[12,12]
     %p = dot %y %vr {lhsContract=[1], rhsContract=[0]} : f32[3,12]
     %q = mul %2 %p : f32[3,12]
     return r=%q`,
  ],
};

const apply = (graph: Graph): Graph => rewriteToFixpoint(graph, ROTATION_RULES);

for (const [equation, [before, after]] of Object.entries(CASES)) {
  Deno.test(`rotation rules: ${equation}`, () => {
    expectGraph(apply, before, after);
    const graph = parse(before);
    const [expected, found] = [evaluateRandomly(graph), evaluateRandomly(apply(graph))].map(({ r }) => r ?? []);
    assert(maxDifference(found ?? [], expected ?? []) < 1e-12);
  });
}
