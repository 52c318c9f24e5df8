import { assertEquals, assertNotEquals } from "@std/assert";
import { rotateResidual } from "../../../../compiler/passes/structure/rotate_residual.ts";
import { decoderModule } from "../../../../compiler/frontends/decoder.ts";
import { expectModule, moduleOf } from "../../../support/expect_module.ts";
import { VARIANTS } from "../../../support/random_decoder.ts";

const EMBED = `
  %i = input {name="ids", type="i32[B]"} : i32[B]
  %e = param {name="embedding.weight", time="checkpoint", type="f32[9,4]"} : f32[9,4]
  %h = gather %e %i : f32[B,4]
  return h=%h
`;
const NORM = `
  %h = input {name="h", type="f32[B,4]"} : f32[B,4]
  %2 = mul %h %h : f32[B,4]
  %3 = sum %2 {axes=[1]} : f32[B,1]
  %4 = sqrt %3 : f32[B,1]
  %5 = broadcast %4 {shape=["B",4]} : f32[B,4]
  %n = div %h %5 : f32[B,4]
`;
const BLOCK = `
  ${NORM}
  %u = param {name="up.weight", time="checkpoint", type="f32[12,4]"} : f32[12,4]
  %6 = dot %n %u {lhsContract=[1], rhsContract=[1]} : f32[B,12]
  %7 = sigmoid %6 : f32[B,12]
  %d = param {name="down.weight", time="checkpoint", type="f32[4,12]"} : f32[4,12]
  %8 = dot %7 %d {lhsContract=[1], rhsContract=[1]} : f32[B,4]
  %b = param {name="down.bias", time="checkpoint", type="f32[4]"} : f32[4]
  %9 = broadcast %b {shape=["B",4]} : f32[B,4]
  %10 = add %8 %9 : f32[B,4]
  %11 = add %h %10 : f32[B,4]
  return h=%11
`;
/** The gain of a tied head stays, and with it the way back from the rotated basis. */
const HEAD = `
  %h = input {name="h", type="f32[B,4]"} : f32[B,4]
  %g = param {name="gain", time="checkpoint", type="f32[4]"} : f32[4]
  %gb = broadcast %g {shape=["B",4]} : f32[B,4]
  %x = mul %h %gb : f32[B,4]
  %w = param {name="embedding.weight", time="checkpoint", type="f32[9,4]"} : f32[9,4]
  %y = dot %x %w {lhsContract=[1], rhsContract=[1]} : f32[B,9]
  return logits=%y
`;
const texts = { embed: EMBED, block: BLOCK, head: HEAD };

Deno.test("rotateResidual cancels in blocks and stays visible in the embedding and a tied head", () => {
  const { module, notes } = expectModule(rotateResidual({ seed: 1 }), moduleOf(texts, ["ids"], ["logits"]), {
    embed: `
      %e = param {name="embedding.weight", time="checkpoint", type="f32[9,4]"} : f32[9,4]
      %i = input {name="ids", type="i32[B]"} : i32[B]
      %h = gather %e %i : f32[B,4]
      %s = param {name="rotation.residual.signs", time="checkpoint", type="f32[4]"} : f32[4]
      %r = hadamard %h %s {axis=1} : f32[B,4]
      return h=%r
    `,
    block: `
      ${NORM}
      %u = param {name="up.weight", time="checkpoint", type="f32[12,4]"} : f32[12,4]
      %s = param {name="rotation.residual.signs", time="checkpoint", type="f32[4]"} : f32[4]
      %ur = hadamard %u %s {axis=1} : f32[12,4]
      %6 = dot %n %ur {lhsContract=[1], rhsContract=[1]} : f32[B,12]
      %7 = sigmoid %6 : f32[B,12]
      %d = param {name="down.weight", time="checkpoint", type="f32[4,12]"} : f32[4,12]
      %dr = hadamard %d %s {axis=0} : f32[4,12]
      %8 = dot %7 %dr {lhsContract=[1], rhsContract=[1]} : f32[B,4]
      %b = param {name="down.bias", time="checkpoint", type="f32[4]"} : f32[4]
      %br = hadamard %b %s {axis=0} : f32[4]
      %9 = broadcast %br {shape=["B",4]} : f32[B,4]
      %10 = add %8 %9 : f32[B,4]
      %11 = add %h %10 : f32[B,4]
      return h=%11
    `,
    head: `
      %h = input {name="h", type="f32[B,4]"} : f32[B,4]
      %s = param {name="rotation.residual.signs", time="checkpoint", type="f32[4]"} : f32[4]
      %r = hadamard %h %s {axis=1, transposed=true} : f32[B,4]
      %g = param {name="gain", time="checkpoint", type="f32[4]"} : f32[4]
      %gb = broadcast %g {shape=["B",4]} : f32[B,4]
      %x = mul %r %gb : f32[B,4]
      %w = param {name="embedding.weight", time="checkpoint", type="f32[9,4]"} : f32[9,4]
      %y = dot %x %w {lhsContract=[1], rhsContract=[1]} : f32[B,9]
      return logits=%y
    `,
  });
  assertEquals(Object.keys(module.derived), ["rotation.residual.signs"]);
  assertEquals(notes, []);
});

Deno.test("rotateResidual declares the same signs for every call, by seed", () => {
  const signs = (seed: number) =>
    Object.entries(
      rotateResidual({ seed }).run(decoderModule(VARIANTS["untied, heads of 8"]), { note: () => {} }).derived,
    )
      .filter(([name]) => name.endsWith("rotation.residual.signs"))
      .map(([name, { generate }]) => [name, generate()] as const);
  const [embed, first, second] = signs(1);
  assertEquals(embed?.[0], "rotation.residual.signs");
  assertEquals(first?.[0], "layers.0.rotation.residual.signs");
  assertEquals([first?.[1], second?.[1]], [embed?.[1], embed?.[1]]);
  assertEquals(new Set(embed?.[1]), new Set([1, -1]));
  assertNotEquals(signs(2)[0]?.[1], embed?.[1]);
});

Deno.test("rotateResidual leaves a stream that is seen from outside, with a note", () => {
  for (
    const [inputs, outputs, reason] of [
      [["ids", "h"], ["logits"], "it is given from outside"],
      [["ids"], ["logits", "h"], "it is a result of the model"],
    ] as const
  ) {
    const { notes, module } = expectModule(rotateResidual({ seed: 1 }), moduleOf(texts, inputs, outputs), texts);
    assertEquals(notes, [`rotate_residual: the stream "h" keeps its basis: ${reason}`]);
    assertEquals(module.derived, {});
  }
});

Deno.test("rotateResidual leaves a model whose calls pass nothing on", () => {
  const only = { head: HEAD };
  expectModule(rotateResidual({ seed: 1 }), moduleOf(only, ["h"], ["logits"]), only);
});
