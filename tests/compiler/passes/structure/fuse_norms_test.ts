import { fuseNorms } from "../../../../compiler/passes/structure/fuse_norms.ts";
import { expectModule, moduleOf } from "../../../support/expect_module.ts";

const GAIN = `
  %g = param {name="gain", time="checkpoint", type="f32[4]"} : f32[4]
  %gb = broadcast %g {shape=["B",4]} : f32[B,4]
  %x = mul %h %gb : f32[B,4]
`;

Deno.test("fuseNorms folds a gain into all linear layers that read it, whatever the shape of their weights", () => {
  const block = `
    %h = input {name="h", type="f32[B,4]"} : f32[B,4]
    ${GAIN}
    %w = param {name="up.weight", time="checkpoint", type="f32[8,4]"} : f32[8,4]
    %y = dot %x %w {lhsContract=[1], rhsContract=[1]} : f32[B,8]
    %v = param {name="heads.weight", time="checkpoint", type="f32[8,4]"} : f32[8,4]
    %vh = reshape %v {shape=[2,4,4]} : f32[2,4,4]
    %z = dot %x %vh {lhsContract=[1], rhsContract=[2]} : f32[B,2,4]
    return y=%y z=%z
  `;
  expectModule(fuseNorms, moduleOf({ block }, ["h"], ["y", "z"]), {
    block: `
      %h = input {name="h", type="f32[B,4]"} : f32[B,4]
      %w = param {name="up.weight", time="checkpoint", type="f32[8,4]"} : f32[8,4]
      %g = param {name="gain", time="checkpoint", type="f32[4]"} : f32[4]
      %g1 = reshape %g {shape=[1,4]} : f32[1,4]
      %g2 = broadcast %g1 {shape=[8,4]} : f32[8,4]
      %wg = mul %w %g2 : f32[8,4]
      %y = dot %h %wg {lhsContract=[1], rhsContract=[1]} : f32[B,8]
      %v = param {name="heads.weight", time="checkpoint", type="f32[8,4]"} : f32[8,4]
      %vh = reshape %v {shape=[2,4,4]} : f32[2,4,4]
      %g3 = reshape %g {shape=[1,1,4]} : f32[1,1,4]
      %g4 = broadcast %g3 {shape=[2,4,4]} : f32[2,4,4]
      %vg = mul %vh %g4 : f32[2,4,4]
      %z = dot %h %vg {lhsContract=[1], rhsContract=[2]} : f32[B,2,4]
      return y=%y z=%z
    `,
  });
});

Deno.test("fuseNorms brings a gain of two axes to the order of the weight's axes", () => {
  const block = `
    %h = input {name="h", type="f32[B,2,3]"} : f32[B,2,3]
    %g = param {name="gain", time="checkpoint", type="f32[2,3]"} : f32[2,3]
    %gb = broadcast %g {shape=["B",2,3]} : f32[B,2,3]
    %x = mul %gb %h : f32[B,2,3]
    %w = param {name="weight", time="checkpoint", type="f32[3,5,2]"} : f32[3,5,2]
    %y = dot %x %w {lhsContract=[1,2], rhsContract=[2,0]} : f32[B,5]
    return y=%y
  `;
  expectModule(fuseNorms, moduleOf({ block }, ["h"], ["y"]), {
    block: `
      %h = input {name="h", type="f32[B,2,3]"} : f32[B,2,3]
      %w = param {name="weight", time="checkpoint", type="f32[3,5,2]"} : f32[3,5,2]
      %g = param {name="gain", time="checkpoint", type="f32[2,3]"} : f32[2,3]
      %gt = transpose %g {permutation=[1,0]} : f32[3,2]
      %gr = reshape %gt {shape=[3,1,2]} : f32[3,1,2]
      %gb = broadcast %gr {shape=[3,5,2]} : f32[3,5,2]
      %wg = mul %w %gb : f32[3,5,2]
      %y = dot %h %wg {lhsContract=[1,2], rhsContract=[2,0]} : f32[B,5]
      return y=%y
    `,
  });
});

Deno.test("fuseNorms leaves a gain before a weight that another function reads as well", () => {
  const texts = {
    embed: `
      %i = input {name="ids", type="i32[B]"} : i32[B]
      %e = param {name="embedding.weight", time="checkpoint", type="f32[9,4]"} : f32[9,4]
      %h = gather %e %i : f32[B,4]
      return h=%h
    `,
    head: `
      %h = input {name="h", type="f32[B,4]"} : f32[B,4]
      ${GAIN}
      %w = param {name="embedding.weight", time="checkpoint", type="f32[9,4]"} : f32[9,4]
      %y = dot %x %w {lhsContract=[1], rhsContract=[1]} : f32[B,9]
      return logits=%y
    `,
  };
  expectModule(fuseNorms, moduleOf(texts, ["ids"], ["logits"]), texts);
});

Deno.test("fuseNorms leaves a gain whose result is read by anything but linear layers", () => {
  const readers = [
    "%z = sigmoid %x : f32[B,4]",
    "%z = dot %x %h {lhsContract=[1], rhsContract=[1]} : f32[B,B]",
  ];
  for (const reader of readers) {
    const block = `
      %h = input {name="h", type="f32[B,4]"} : f32[B,4]
      ${GAIN}
      %w = param {name="weight", time="checkpoint", type="f32[8,4]"} : f32[8,4]
      %y = dot %x %w {lhsContract=[1], rhsContract=[1]} : f32[B,8]
      ${reader}
      return y=%y z=%z
    `;
    expectModule(fuseNorms, moduleOf({ block }, ["h"], ["y", "z"]), { block });
  }
});

Deno.test("fuseNorms leaves a gain that varies along an axis which the linear layer keeps", () => {
  const block = `
    %h = input {name="h", type="f32[B,2,3]"} : f32[B,2,3]
    %g = param {name="gain", time="checkpoint", type="f32[2,3]"} : f32[2,3]
    %gb = broadcast %g {shape=["B",2,3]} : f32[B,2,3]
    %x = mul %h %gb : f32[B,2,3]
    %w = param {name="weight", time="checkpoint", type="f32[5,3]"} : f32[5,3]
    %y = dot %x %w {lhsContract=[2], rhsContract=[1]} : f32[B,2,5]
    return y=%y
  `;
  expectModule(fuseNorms, moduleOf({ block }, ["h"], ["y"]), { block });
});
