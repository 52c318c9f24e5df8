/** mod.ts, imported from a server by a program that has no deno.json of ours. */
import { assertEquals } from "@std/assert";

Deno.test("mod.ts can be imported by URL, and computes without any permission", async () => {
  const root = new URL("../../", import.meta.url), folder = await Deno.makeTempDir();
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, async ({ url }) => {
    const { pathname } = new URL(url),
      type = pathname.endsWith(".json") ? "application/json" : "application/typescript";
    const bytes = await Deno.readFile(new URL(`.${pathname}`, root)).catch(() => undefined);
    return bytes ? new Response(bytes, { headers: { "content-type": type } }) : new Response(null, { status: 404 });
  });
  try {
    const host = `127.0.0.1:${server.addr.port}`;
    await Deno.writeTextFile(
      `${folder}/use.ts`,
      `import { openWasm, parseBitSpec } from "http://${host}/mod.ts";
       await using backend = await openWasm({ threads: 2 });
       console.log(backend.name, parseBitSpec("mixed").text);`,
    );
    const command = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", "--quiet", `--allow-import=${host}`, `${folder}/use.ts`],
      cwd: folder,
    });
    const { code, stdout, stderr } = await command.output();
    assertEquals([code, new TextDecoder().decode(stdout)], [0, "wasm mixed\n"], new TextDecoder().decode(stderr));
  } finally {
    await server.shutdown();
    await Deno.remove(folder, { recursive: true });
  }
});
