/**
 * Algebraic clean-up: what other passes leave behind, such as movements that undo each other, neutral elements, constants that
 * can be computed now, casts back and forth. Never adds a node to what a token costs.
 */
import type { Graph } from "../../../ir/node.ts";
import { rewriteToFixpoint, type Rule } from "../../../ir/rewrite.ts";
import { functionPass, type NamedPass } from "../pass.ts";
import { MAP_RULES } from "./map_rules.ts";
import { MOVEMENT_RULES } from "./movement_rules.ts";
import { cancelRotations } from "./rotation_rules.ts";

const RULES: readonly Rule[] = [...MOVEMENT_RULES, ...MAP_RULES, cancelRotations];

/** Applies all rules until none matches. */
export const simplifyGraph = (graph: Graph): Graph => rewriteToFixpoint(graph, RULES);

/** The pass: every function, simplified. */
export const simplify: NamedPass = functionPass("simplify", simplifyGraph);
