import { assertEquals } from "@std/assert";
import { rotateHeads } from "../../../../compiler/passes/structure/rotate_heads.ts";
import { expectModule, moduleOf } from "../../../support/expect_module.ts";

const INPUTS = `
  %q = input {name="q", type="f32[B,T,2,4]"} : f32[B,T,2,4]
  %k = input {name="k", type="f32[B,T,1,4]"} : f32[B,T,1,4]
  %x = input {name="x", type="f32[B,T,6]"} : f32[B,T,6]
`;

Deno.test("rotateHeads moves the rotation into the value and output projections", () => {
  const block = `
    ${INPUTS}
    %w = param {name="value.weight", time="checkpoint", type="f32[12,6]"} : f32[12,6]
    %wh = reshape %w {shape=[1,12,6]} : f32[1,12,6]
    %d = dot %x %wh {lhsContract=[2], rhsContract=[2]} : f32[B,T,1,12]
    %b = param {name="value.bias", time="checkpoint", type="f32[12]"} : f32[12]
    %bh = reshape %b {shape=[1,12]} : f32[1,12]
    %bb = broadcast %bh {shape=["B","T",1,12]} : f32[B,T,1,12]
    %v = add %d %bb : f32[B,T,1,12]
    %a = attention %q %k %v {causal=true, of="output", scale=0.5} : f32[B,T,2,12]
    %o = param {name="output.weight", time="checkpoint", type="f32[6,24]"} : f32[6,24]
    %oh = reshape %o {shape=[6,2,12]} : f32[6,2,12]
    %y = dot %a %oh {lhsContract=[2,3], rhsContract=[1,2]} : f32[B,T,6]
    return y=%y
  `;
  const { module } = expectModule(rotateHeads({ seed: 1 }), moduleOf({ block }, ["q", "k", "x"], ["y"]), {
    block: `
      ${INPUTS}
      %w = param {name="value.weight", time="checkpoint", type="f32[12,6]"} : f32[12,6]
      %wh = reshape %w {shape=[1,12,6]} : f32[1,12,6]
      %s = param {name="rotation.heads.signs", time="checkpoint", type="f32[12]"} : f32[12]
      %wr = hadamard %wh %s {axis=1} : f32[1,12,6]
      %d = dot %x %wr {lhsContract=[2], rhsContract=[2]} : f32[B,T,1,12]
      %b = param {name="value.bias", time="checkpoint", type="f32[12]"} : f32[12]
      %bh = reshape %b {shape=[1,12]} : f32[1,12]
      %br = hadamard %bh %s {axis=1} : f32[1,12]
      %bb = broadcast %br {shape=["B","T",1,12]} : f32[B,T,1,12]
      %v = add %d %bb : f32[B,T,1,12]
      %a = attention %q %k %v {causal=true, of="output", scale=0.5} : f32[B,T,2,12]
      %o = param {name="output.weight", time="checkpoint", type="f32[6,24]"} : f32[6,24]
      %oh = reshape %o {shape=[6,2,12]} : f32[6,2,12]
      %or = hadamard %oh %s {axis=2} : f32[6,2,12]
      %y = dot %a %or {lhsContract=[2,3], rhsContract=[1,2]} : f32[B,T,6]
      return y=%y
    `,
  });
  assertEquals(Object.keys(module.derived), ["rotation.heads.signs"]);
});

Deno.test("rotateHeads leaves attention whose values come from no linear layer, with a note", () => {
  const block = `
    ${INPUTS}
    %a = attention %q %k %k {causal=true, of="output", scale=0.5} : f32[B,T,2,4]
    return y=%a
  `;
  const { notes, module } = expectModule(rotateHeads({ seed: 1 }), moduleOf({ block }, ["q", "k"], ["y"]), { block });
  assertEquals(notes, [
    'rotate_heads: the heads of "block" keep their basis: its neighbours are not linear layers, which could take the rotation',
  ]);
  assertEquals(module.derived, {});
});
