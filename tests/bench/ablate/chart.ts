/** The plot of an ablation: one line per width, one place per run, drawn by Vega-Lite. */

/** One point. */
export interface AblationPoint {
  readonly run: string;
  readonly bits: string;
  readonly kl: number;
}

/** An SVG of divergences on a logarithmic axis. The libraries are fetched when something is drawn, and by nothing else. */
export async function ablationChart(points: readonly AblationPoint[]): Promise<string> {
  const [vegaLite, vega] = ["vega-lite@6.5.0", "vega@6.4.0"], load = (name: string) => import(`npm:${name}`);
  const { compile } = await load(vegaLite ?? ""), { parse, View } = await load(vega ?? "");
  const { spec } = compile({
    data: { values: points },
    mark: { type: "point", filled: true, size: 60 },
    width: 560,
    encoding: {
      y: { field: "run", type: "nominal", sort: null, title: null },
      x: { field: "kl", type: "quantitative", scale: { type: "log" }, title: "divergence from full precision, nats" },
      color: { field: "bits", type: "nominal", title: "bits" },
    },
  });
  return await new View(parse(spec), { renderer: "none" }).toSVG();
}
