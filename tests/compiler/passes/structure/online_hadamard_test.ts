import { onlineHadamard } from "../../../../compiler/passes/structure/online_hadamard.ts";
import { expectModule, moduleOf } from "../../../support/expect_module.ts";

const INPUTS = `
  %q = input {name="q", type="f32[B,T,2,4]"} : f32[B,T,2,4]
  %k = input {name="k", type="f32[B,T,1,4]"} : f32[B,T,1,4]
`;
const OUTPUT = `
  %o = param {name="output.weight", time="checkpoint", type="f32[12,2,4]"} : f32[12,2,4]
  %x = dot %a %o {lhsContract=[2,3], rhsContract=[1,2]} : f32[B,T,12]
`;
const block = `
  ${INPUTS}
  %a = attention %q %k %k {causal=true, of="output", scale=0.5} : f32[B,T,2,4]
  ${OUTPUT}
  %s = sigmoid %x : f32[B,T,12]
  %m = mul %x %s : f32[B,T,12]
  %w = param {name="down.weight", time="checkpoint", type="f32[6,12]"} : f32[6,12]
  %y = dot %m %w {lhsContract=[2], rhsContract=[1]} : f32[B,T,6]
  return y=%y
`;
/** The transform is not symmetric, and both sides take the same one: ⟨T m, T w⟩ = ⟨m, w⟩. */
const DOWN = `
  %s = sigmoid %x : f32[B,T,12]
  %m = mul %x %s : f32[B,T,12]
  %tm = hadamard %m {axis=2} : f32[B,T,12]
  %w = param {name="down.weight", time="checkpoint", type="f32[6,12]"} : f32[6,12]
  %tw = hadamard %w {axis=1} : f32[6,12]
  %y = dot %tm %tw {lhsContract=[2], rhsContract=[1]} : f32[B,T,6]
  return y=%y
`;
const module = moduleOf({ block }, ["q", "k"], ["y"]);

Deno.test("onlineHadamard transforms inputs made by elementwise functions, not attention's output", () => {
  expectModule(onlineHadamard({ keys: false }), module, {
    block: `
      ${INPUTS}
      %a = attention %q %k %k {causal=true, of="output", scale=0.5} : f32[B,T,2,4]
      ${OUTPUT}
      ${DOWN}
    `,
  });
});

Deno.test("onlineHadamard transforms queries and keys where asked to", () => {
  expectModule(onlineHadamard({ keys: true }), module, {
    block: `
      ${INPUTS}
      %tq = hadamard %q {axis=3} : f32[B,T,2,4]
      %tk = hadamard %k {axis=3} : f32[B,T,1,4]
      %a = attention %tq %tk %k {causal=true, of="output", scale=0.5} : f32[B,T,2,4]
      ${OUTPUT}
      ${DOWN}
    `,
  });
});

Deno.test("onlineHadamard leaves inputs that are normalised, scaled, summed or given", () => {
  const block = `
    %h = input {name="h", type="f32[B,4]"} : f32[B,4]
    %w = param {name="w", time="checkpoint", type="f32[8,4]"} : f32[8,4]
    %0 = dot %h %w {lhsContract=[1], rhsContract=[1]} : f32[B,8]
    %1 = add %h %h : f32[B,4]
    %2 = mul %1 %1 : f32[B,4]
    %3 = sum %2 {axes=[1]} : f32[B,1]
    %4 = sqrt %3 : f32[B,1]
    %5 = broadcast %4 {shape=["B",4]} : f32[B,4]
    %6 = div %1 %5 : f32[B,4]
    %g = param {name="gain", time="checkpoint", type="f32[4]"} : f32[4]
    %gb = broadcast %g {shape=["B",4]} : f32[B,4]
    %7 = mul %6 %gb : f32[B,4]
    %8 = dot %7 %w {lhsContract=[1], rhsContract=[1]} : f32[B,8]
    return y=%0 z=%8
  `;
  expectModule(onlineHadamard({ keys: true }), moduleOf({ block }, ["h"], ["y", "z"]), { block });
});
