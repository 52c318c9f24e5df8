import { assert, assertEquals } from "@std/assert";
import { simplifyGraph } from "../../../../compiler/passes/structure/simplify.ts";
import { parse } from "../../../../ir/parse.ts";
import { evaluateRandomly } from "../../../support/evaluate_randomly.ts";
import { expectGraph } from "../../../support/expect_graph.ts";
import { maxDifference } from "../../../support/run_module.ts";

/** Under each equation a graph before and after; the inputs x, y, s (signs) and c (codes) are declared where they are used. */
const INPUTS: Readonly<Record<string, string>> = {
  x: '%x = input {name="x", type="f32[B,4,6]"} : f32[B,4,6]',
  y: '%y = input {name="y", type="f32[B,4,6]"} : f32[B,4,6]',
  u: '%u = input {name="u", type="f32[B,1,6]"} : f32[B,1,6]',
  h: '%h = input {name="h", type="f32[2,12]"} : f32[2,12]',
  s: '%s = input {name="s", type="f32[12]"} : f32[12]',
  t: '%t = input {name="t", type="f32[12]"} : f32[12]',
  c: '%c = input {name="c", type="u3[2,12]"} : u3[2,12]',
  k: '%k = input {name="k", type="bool[B,4,6]"} : bool[B,4,6]',
};

/** A graph of the lines' values; the inputs they mention are added in front, and the last value is returned. */
function graph(...lines: readonly string[]): string {
  const text = lines.join("\n"), last = /(%\w+)[^%]*$/.exec(lines.at(-1)?.split(" = ")[0] ?? "")?.[1] ?? "%x";
  const inputs = Object.keys(INPUTS).filter((name) => new RegExp(`%${name}\\b`).test(text)).map((name) => INPUTS[name]);
  return [...inputs, ...lines.filter((line) => line.includes(" = ")), `return r=${last}`].join("\n");
}

const zeros = '%0 = constant {type="f32[B,4,6]", values=[0]} : f32[B,4,6]';
const ones = '%1 = constant {type="f32[B,4,6]", values=[1]} : f32[B,4,6]';
const minus = '%m = constant {type="f32[B,4,6]", values=[-1]} : f32[B,4,6]';

const CASES: Readonly<Record<string, readonly [before: string, after: string]>> = {
  "reshape(x, shape of x) = x": [graph('%a = reshape %x {shape=["B",4,6]} : f32[B,4,6]'), graph("%x")],
  "reshape(reshape(x)) = reshape(x)": [
    graph('%a = reshape %x {shape=["B",24]} : f32[B,24]', '%b = reshape %a {shape=["B",6,4]} : f32[B,6,4]'),
    graph('%b = reshape %x {shape=["B",6,4]} : f32[B,6,4]'),
  ],
  "reshape back = x": [
    graph('%a = reshape %x {shape=["B",24]} : f32[B,24]', '%b = reshape %a {shape=["B",4,6]} : f32[B,4,6]'),
    graph("%x"),
  ],
  "transpose(x, identity) = x": [graph("%a = transpose %x {permutation=[0,1,2]} : f32[B,4,6]"), graph("%x")],
  "transpose(transpose(x, p), q) = transpose(x, p ∘ q)": [
    graph(
      "%a = transpose %x {permutation=[1,2,0]} : f32[4,6,B]",
      "%b = transpose %a {permutation=[0,2,1]} : f32[4,B,6]",
    ),
    graph("%b = transpose %x {permutation=[1,0,2]} : f32[4,B,6]"),
  ],
  "transpose back = x": [
    graph(
      "%a = transpose %x {permutation=[1,2,0]} : f32[4,6,B]",
      "%b = transpose %a {permutation=[2,0,1]} : f32[B,4,6]",
    ),
    graph("%x"),
  ],
  "transpose of axes of size 1 = reshape": [
    graph("%a = transpose %u {permutation=[1,0,2]} : f32[1,B,6]"),
    graph('%a = reshape %u {shape=[1,"B",6]} : f32[1,B,6]'),
  ],
  "broadcast(x, shape of x) = x": [graph('%a = broadcast %x {shape=["B",4,6]} : f32[B,4,6]'), graph("%x")],
  "broadcast(broadcast(x)) = broadcast(x)": [
    graph('%a = broadcast %u {shape=["B",4,6]} : f32[B,4,6]', '%b = broadcast %a {shape=[2,"B",4,6]} : f32[2,B,4,6]'),
    graph('%b = broadcast %u {shape=[2,"B",4,6]} : f32[2,B,4,6]'),
  ],
  "broadcast by leading ones = reshape": [
    graph('%a = broadcast %x {shape=[1,"B",4,6]} : f32[1,B,4,6]'),
    graph('%a = reshape %x {shape=[1,"B",4,6]} : f32[1,B,4,6]'),
  ],
  "slice(x, all) = x": [graph('%a = slice %x {sizes=["B",4,6], starts=[0,0,0]} : f32[B,4,6]'), graph("%x")],
  "slice(slice(x)) = slice(x)": [
    graph(
      '%a = slice %x {sizes=["B",3,6], starts=[0,1,0]} : f32[B,3,6]',
      '%b = slice %a {sizes=["B",2,6], starts=[0,1,0]} : f32[B,2,6]',
    ),
    graph('%b = slice %x {sizes=["B",2,6], starts=[0,2,0]} : f32[B,2,6]'),
  ],
  "slice(reversed slice(x)) = reversed slice(x)": [
    graph(
      '%a = slice %x {sizes=["B",4,6], starts=[0,3,0], steps=[1,-1,1]} : f32[B,4,6]',
      '%b = slice %a {sizes=["B",2,6], starts=[0,1,0]} : f32[B,2,6]',
    ),
    graph('%b = slice %x {sizes=["B",2,6], starts=[0,2,0], steps=[1,-1,1]} : f32[B,2,6]'),
  ],
  "reversed twice = x": [
    graph(
      '%a = slice %x {sizes=["B",4,6], starts=[0,3,0], steps=[1,-1,1]} : f32[B,4,6]',
      '%b = slice %a {sizes=["B",4,6], starts=[0,3,0], steps=[1,-1,1]} : f32[B,4,6]',
    ),
    graph("%x"),
  ],
  "slice(concat(x, y)) within y = slice(y)": [
    graph(
      "%a = concat %x %y {axis=1} : f32[B,8,6]",
      '%b = slice %a {sizes=["B",2,6], starts=[0,5,0]} : f32[B,2,6]',
    ),
    graph('%b = slice %y {sizes=["B",2,6], starts=[0,1,0]} : f32[B,2,6]'),
  ],
  "slice(concat(x, y)) across both stays": [
    graph(
      "%a = concat %x %y {axis=1} : f32[B,8,6]",
      '%b = slice %a {sizes=["B",2,6], starts=[0,3,0]} : f32[B,2,6]',
    ),
    graph(
      "%a = concat %x %y {axis=1} : f32[B,8,6]",
      '%b = slice %a {sizes=["B",2,6], starts=[0,3,0]} : f32[B,2,6]',
    ),
  ],
  "slice(pad(x)) within x = slice(x)": [
    graph(
      "%a = pad %x {after=[0,0,2], before=[0,1,0]} : f32[B,5,8]",
      '%b = slice %a {sizes=["B",4,6], starts=[0,1,0]} : f32[B,4,6]',
    ),
    graph("%x"),
  ],
  "concat(x) = x": [graph("%a = concat %x {axis=1} : f32[B,4,6]"), graph("%x")],
  "pad(x, 0) = x": [graph("%a = pad %x {after=[0,0,0], before=[0,0,0]} : f32[B,4,6]"), graph("%x")],
  "a movement of a repeated number = that number": [
    graph(zeros, '%a = reshape %0 {shape=[24,"B"]} : f32[24,B]', "%b = transpose %a {permutation=[1,0]} : f32[B,24]"),
    graph('%b = constant {type="f32[B,24]", values=[0]} : f32[B,24]'),
  ],
  "pad(0, 0) = 0, pad(1, 0) stays": [
    graph(
      zeros,
      ones,
      "%a = pad %0 {after=[0,0,2], before=[0,0,0]} : f32[B,4,8]",
      "%b = pad %1 {after=[0,0,2], before=[0,0,0]} : f32[B,4,8]",
      "%c0 = minimum %a %b : f32[B,4,8]",
    ),
    graph(
      ones,
      '%a = constant {type="f32[B,4,8]", values=[0]} : f32[B,4,8]',
      "%b = pad %1 {after=[0,0,2], before=[0,0,0]} : f32[B,4,8]",
      "%c0 = minimum %a %b : f32[B,4,8]",
    ),
  ],
  "sum(x, axes of size 1) = x": [graph("%a = sum %u {axes=[1]} : f32[B,1,6]"), graph("%u")],
  "max over an axis of size 1 and another = max over the other": [
    graph("%a = max %u {axes=[1,2]} : f32[B,1,1]"),
    graph("%a = max %u {axes=[2]} : f32[B,1,1]"),
  ],
  "x + 0 = x": [graph(zeros, "%a = add %x %0 : f32[B,4,6]"), graph("%x")],
  "0 + x = x": [graph(zeros, "%a = add %0 %x : f32[B,4,6]"), graph("%x")],
  "x - 0 = x": [graph(zeros, "%a = sub %x %0 : f32[B,4,6]"), graph("%x")],
  "0 - x stays": [graph(zeros, "%a = sub %0 %x : f32[B,4,6]"), graph(zeros, "%a = sub %0 %x : f32[B,4,6]")],
  "x · 1 = x": [graph(ones, "%a = mul %x %1 : f32[B,4,6]"), graph("%x")],
  "1 · x = x": [graph(ones, "%a = mul %1 %x : f32[B,4,6]"), graph("%x")],
  "x / 1 = x": [graph(ones, "%a = div %x %1 : f32[B,4,6]"), graph("%x")],
  "x · (-1) · (-1) = x": [
    graph(minus, "%a = mul %x %m : f32[B,4,6]", "%b = mul %a %m : f32[B,4,6]"),
    graph("%x"),
  ],
  "x + y · (-1) = x - y": [
    graph(minus, "%a = mul %y %m : f32[B,4,6]", "%b = add %x %a : f32[B,4,6]"),
    graph("%b = sub %x %y : f32[B,4,6]"),
  ],
  "y · (-1) + x = x - y": [
    graph(minus, "%a = mul %y %m : f32[B,4,6]", "%b = add %a %x : f32[B,4,6]"),
    graph("%b = sub %x %y : f32[B,4,6]"),
  ],
  "select(c, x, x) = x": [graph("%a = select %k %x %x : f32[B,4,6]"), graph("%x")],
  "select(known, x, y)": [
    graph(zeros, ones, '%a = compare %0 %1 {direction="lt"} : bool[B,4,6]', "%b = select %a %x %y : f32[B,4,6]"),
    graph("%x"),
  ],
  "minimum(x, x) = x": [graph("%a = minimum %x %x : f32[B,4,6]"), graph("%x")],
  "straightThrough(x, x) = x": [graph("%a = straightThrough %x %x : f32[B,4,6]"), graph("%x")],
  "operations on repeated numbers": [
    graph(
      '%a = constant {type="f32[B]", values=[2]} : f32[B]',
      '%b = constant {type="f32[B]", values=[0.1]} : f32[B]',
      "%d = mul %a %b : f32[B]",
    ),
    graph(`%d = constant {type="f32[B]", values=[${Math.fround(0.2)}]} : f32[B]`),
  ],
  "operations on short lists": [
    graph(
      '%a = iota {axis=0, type="i32[4]"} : i32[4]',
      '%b = constant {type="i32[4]", values=[3,1,4,1]} : i32[4]',
      "%d = add %b %b : i32[4]",
      "%e = slice %d {sizes=[4], starts=[3], steps=[-1]} : i32[4]",
      "%f = mul %a %e : i32[4]",
    ),
    graph(
      '%a = iota {axis=0, type="i32[4]"} : i32[4]',
      '%e = constant {type="i32[4]", values=[2,8,2,6]} : i32[4]',
      "%f = mul %a %e : i32[4]",
    ),
  ],
  "1 / 0 is not written as a constant": [
    graph(zeros, ones, "%a = div %1 %0 : f32[B,4,6]"),
    graph(zeros, ones, "%a = div %1 %0 : f32[B,4,6]"),
  ],
  "pack(unpack(c)) = c": [
    graph('%a = cast %c {dtype="f32"} : f32[2,12]', '%b = cast %a {dtype="u3"} : u3[2,12]'),
    graph("%c"),
  ],
  "casting through a smaller type stays": [
    graph('%a = cast %c {dtype="u2"} : u2[2,12]', '%b = cast %a {dtype="u3"} : u3[2,12]'),
    graph('%a = cast %c {dtype="u2"} : u2[2,12]', '%b = cast %a {dtype="u3"} : u3[2,12]'),
  ],
  "unpack(pack(c)) = c for integers within the type's range": [
    graph(
      '%0 = constant {type="f32[2,12]", values=[0]} : f32[2,12]',
      '%7 = constant {type="f32[2,12]", values=[7]} : f32[2,12]',
      "%a = round %h : f32[2,12]",
      "%b = maximum %a %0 : f32[2,12]",
      "%d = minimum %b %7 : f32[2,12]",
      '%e = cast %d {dtype="u3"} : u3[2,12]',
      '%f = cast %e {dtype="f32"} : f32[2,12]',
    ),
    graph(
      '%0 = constant {type="f32[2,12]", values=[0]} : f32[2,12]',
      '%7 = constant {type="f32[2,12]", values=[7]} : f32[2,12]',
      "%a = round %h : f32[2,12]",
      "%b = maximum %a %0 : f32[2,12]",
      "%d = minimum %b %7 : f32[2,12]",
    ),
  ],
  "unpack(pack(x)) stays for values out of range": [
    graph(
      "%a = round %h : f32[2,12]",
      '%e = cast %a {dtype="u3"} : u3[2,12]',
      '%f = cast %e {dtype="f32"} : f32[2,12]',
    ),
    graph(
      "%a = round %h : f32[2,12]",
      '%e = cast %a {dtype="u3"} : u3[2,12]',
      '%f = cast %e {dtype="f32"} : f32[2,12]',
    ),
  ],
  "R⁻¹ R x = x": [
    graph("%a = hadamard %h %s {axis=1} : f32[2,12]", "%b = hadamard %a %s {axis=1, transposed=true} : f32[2,12]"),
    graph("%h"),
  ],
  "R R x stays, and so do rotations with other signs": [
    graph(
      "%a = hadamard %h %s {axis=1} : f32[2,12]",
      "%b = hadamard %a %s {axis=1} : f32[2,12]",
      "%d = hadamard %b %t {axis=1, transposed=true} : f32[2,12]",
    ),
    graph(
      "%a = hadamard %h %s {axis=1} : f32[2,12]",
      "%b = hadamard %a %s {axis=1} : f32[2,12]",
      "%d = hadamard %b %t {axis=1, transposed=true} : f32[2,12]",
    ),
  ],
};

for (const [equation, [before, after]] of Object.entries(CASES)) {
  Deno.test(`simplify: ${equation}`, () => {
    expectGraph(simplifyGraph, before, after);
    const graph = parse(before), simplified = simplifyGraph(graph);
    assertEquals(evaluateRandomly(simplified).r?.length, evaluateRandomly(graph).r?.length);
    const difference = maxDifference(evaluateRandomly(simplified).r ?? [], evaluateRandomly(graph).r ?? []);
    assert(difference < 1e-7 || equation.startsWith("1 / 0"), `largest difference ${difference}`);
  });
}
