/** Real models as modules: decoders of every variant, before and after passes, verify and survive the way through text. */
import { assert, assertEquals } from "@std/assert";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { runPasses } from "../../compiler/passes/pass.ts";
import { fuseNorms } from "../../compiler/passes/structure/fuse_norms.ts";
import { onlineHadamard } from "../../compiler/passes/structure/online_hadamard.ts";
import { rotateHeads } from "../../compiler/passes/structure/rotate_heads.ts";
import { rotateResidual } from "../../compiler/passes/structure/rotate_residual.ts";
import { simplify } from "../../compiler/passes/structure/simplify.ts";
import type { Module } from "../../ir/module.ts";
import { parseModule, printModule } from "../../ir/module_text.ts";
import { verifyModule } from "../../ir/verify_module.ts";
import { VARIANTS } from "../support/random_decoder.ts";

const PASSES = [
  fuseNorms,
  rotateResidual({ seed: 7 }),
  rotateHeads({ seed: 7 }),
  onlineHadamard({ keys: true }),
  simplify,
];

for (const [variant, config] of Object.entries(VARIANTS)) {
  Deno.test(`decoder modules verify and parse back after every pass: ${variant}`, () => {
    const seen: string[] = [];
    const watch = (name: string, module: Module) => {
      verifyModule(module, `after ${name}`);
      const text = printModule(module), parsed = parseModule(text, module.derived);
      assertEquals(printModule(parsed), text);
      assertEquals(parsed.calls, module.calls);
      seen.push(name);
    };
    runPasses(decoderModule(config), PASSES, { watch });
    assert(seen.length === PASSES.length + 1);
  });
}
