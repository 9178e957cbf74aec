/**
 * The sums that the page shows. A part's value is what it adds to a label's logit, less the mean of what it adds to all
 * labels; the values of all parts add up to the logit less the mean logit. What all labels get alike decides nothing.
 * Between two labels the means cancel, and the values add up to the difference of the two logits.
 */

import type { Target } from "./api";

export type Kind = "head" | "feed-forward" | "embedding" | "biases";

export interface Part {
  /** "0.2" for head 2 of encoder 0; of the others the server's own name. */
  id: string;
  name: string;
  kind: Kind;
  /** Encoder that the part belongs to; null for embedding and biases. */
  encoder: number | null;
  /** In logits. */
  value: number;
  /** Over the rows and columns of tokens, in logits; adds up to the part's contribution, mean included. */
  map: number[][] | null;
}

export interface Step {
  part: Part;
  /** Where its bar begins and ends. */
  from: number;
  to: number;
}

export function headId(encoder: number, head: number): string {
  return `${encoder}.${head}`;
}

export function headName(id: string): string {
  const [encoder, head] = id.split(".");
  return `encoder ${encoder} head ${head}`;
}

function otherPart(name: string): Pick<Part, "name" | "kind" | "encoder"> {
  const match = /^encoders\.(\d+)\.feed_forward$/.exec(name);
  if (match) return { name: `encoder ${match[1]} feed-forward`, kind: "feed-forward", encoder: Number(match[1]) };
  return { name, kind: name === "biases" ? "biases" : "embedding", encoder: null };
}

/** All parts of a label, in the model's order. */
export function partsOf(target: Target): Part[] {
  const heads = target.heads.map((head): Part => {
    const id = headId(head.encoder, head.head);
    const map = head.map ?? null;
    return { id, name: headName(id), kind: "head", encoder: head.encoder, value: head.above_mean, map };
  });
  const others = target.other_parts.map((part): Part => {
    return { id: part.name, ...otherPart(part.name), value: part.above_mean, map: part.map ?? null };
  });
  return [...heads, ...others];
}

function combined(one: number[][], other: number[][], factor: number): number[][] {
  return one.map((row, y) => row.map((value, x) => value + factor * (other[y]?.[x] ?? 0)));
}

/** Why one label and not another: what each part adds to the one, less what it adds to the other. */
export function contrast(target: Target, against: Target): Part[] {
  const others = new Map(partsOf(against).map((part) => [part.id, part]));
  return partsOf(target).map((part) => {
    const other = others.get(part.id);
    if (!other) throw new Error(`the two labels have different parts: ${part.id}`);
    const map = part.map && other.map ? combined(part.map, other.map, -1) : null;
    return { ...part, value: part.value - other.value, map };
  });
}

export function sum(parts: readonly Pick<Part, "value">[]): number {
  return parts.reduce((total, part) => total + part.value, 0);
}

/** The map of all parts that have one. */
export function wholeMap(parts: readonly Part[]): number[][] | null {
  return parts.reduce<number[][] | null>(
    (whole, { map }) => (whole && map ? combined(whole, map, 1) : (whole ?? map)),
    null,
  );
}

/** How much larger the parts may be, together, than what they add up to, before per cent of it say nothing. */
const MOST_CANCELLING = 50;

/** The sum that per cent are of; null where the parts nearly cancel, and per cent of what is left would say nothing. */
export function whole(parts: readonly Part[]): number | null {
  const total = Math.abs(sum(parts));
  const size = parts.reduce((all, part) => all + Math.abs(part.value), 0);
  return total * MOST_CANCELLING > size ? total : null;
}

export function bySize<Sized extends { value: number }>(parts: readonly Sized[]): Sized[] {
  return [...parts].sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
}

/** The parts from the largest to the smallest, those after `count` as one, each beginning where the last one ended. */
export function waterfall(parts: readonly Part[], count: number): Step[] {
  const sorted = bySize(parts);
  const shown = sorted.length > count + 1 ? sorted.slice(0, count) : sorted;
  const rest = sorted.slice(shown.length);
  if (rest.length) {
    const name = `${rest.length} smaller parts`;
    shown.push({ id: "rest", name, kind: "biases", encoder: null, value: sum(rest), map: null });
  }
  let end = 0;
  return shown.map((part) => {
    const from = end;
    end += part.value;
    return { part, from, to: end };
  });
}

/** The values of each kind of part together, in the order in which the page names them. */
export function byKind(parts: readonly Part[]): { kind: Kind; value: number; parts: number }[] {
  const kinds: Kind[] = ["head", "feed-forward", "embedding", "biases"];
  return kinds.map((kind) => {
    const own = parts.filter((part) => part.kind === kind);
    return { kind, value: sum(own), parts: own.length };
  });
}

export function largest(map: number[][]): { row: number; column: number; value: number } {
  let place = { row: 0, column: 0, value: 0 };
  map.forEach((values, row) => {
    values.forEach((value, column) => {
      if (Math.abs(value) > Math.abs(place.value)) place = { row, column, value };
    });
  });
  return place;
}

export function total(map: number[][]): number {
  return map.flat().reduce((all, value) => all + value, 0);
}

/** With a sign always, a true minus, and no sign where it rounds to zero. */
export function signed(value: number, digits: number): string {
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return `${value < 0 ? "−" : "+"}${text}`;
}

export function perCent(value: number, whole: number | null, digits = 0): string {
  return whole === null ? "" : `${signed((100 * value) / whole, digits)} %`;
}

export function probability(value: number): string {
  if (value > 0 && value < 0.001) return "< 0.1 %";
  return `${(100 * value).toFixed(1)} %`;
}
