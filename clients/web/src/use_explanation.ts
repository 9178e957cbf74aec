/**
 * What the server says of a picture. The first request asks for the labels with the largest logits; labels that are
 * chosen beside those, silenced heads and the causal check each take a request of their own, when they are asked for.
 */

import { useCallback, useEffect, useState } from "preact/hooks";
import type { ExplainReply, LabelScore, Model, Question, Server, Target } from "./api";
import { headId } from "./arithmetic";
import type { Picture } from "./pictures";

const TOP_LABELS = 5;
const CLICK_MILLISECONDS = 150; // several heads silenced in a row are one request

export interface Answer {
  /** The first one. */
  reply: ExplainReply;
  /** Labels with the largest logits, best first. */
  top: string[];
  targets: ReadonlyMap<string, Target>;
}

export interface Silence {
  heads: string[];
  /** Of every label that is shown. */
  scores: ReadonlyMap<string, { logit: number; probability: number }>;
  top: LabelScore[];
}

export interface CausalCheck {
  /** Fall of the label's logit when the head alone is removed, by the head's id. */
  effects: ReadonlyMap<string, number>;
  correlation: number | null;
  seconds: number;
}

export interface Explained {
  answer: Answer | null;
  silence: Silence | null;
  causal: ReadonlyMap<string, CausalCheck>;
  isBusy: boolean;
  check: (label: string) => void;
}

function firstOf(reply: ExplainReply) {
  const [explanation] = reply.explanations;
  if (!explanation) throw new Error("the reply explains no picture");
  return explanation;
}

function silenceOf(heads: string[], reply: ExplainReply): Silence {
  const explanation = firstOf(reply);
  const scores = new Map<string, { logit: number; probability: number }>();
  for (const { label, silenced_logit: logit, silenced_probability: probability } of explanation.targets) {
    if (logit !== undefined && probability !== undefined) scores.set(label, { logit, probability });
  }
  return { heads, scores, top: explanation.silenced_top ?? [] };
}

function causalOf(reply: ExplainReply): CausalCheck {
  const [target] = firstOf(reply).targets;
  if (!target) throw new Error("the reply explains no label");
  const effects = new Map<string, number>();
  for (const head of target.heads) {
    if (head.effect !== undefined) effects.set(headId(head.encoder, head.head), head.effect);
  }
  const seconds = reply.timings.total_seconds;
  return { effects, correlation: target.effect_correlation ?? null, seconds };
}

function measurePaint() {
  requestAnimationFrame(() => {
    setTimeout(() => performance.measure("headwise:explanation-painted", "headwise:reply"));
  });
}

export function useExplanation(
  server: Server,
  model: Model | null,
  picture: Picture | null,
  wanted: { label: string; against: string; silenced: string[] },
  onError: (error: unknown) => void,
): Explained {
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [silence, setSilence] = useState<Silence | null>(null);
  const [causal, setCausal] = useState<ReadonlyMap<string, CausalCheck>>(new Map());
  const [checking, setChecking] = useState("");
  const [running, setRunning] = useState(0);

  /** Ask, until the returned function is called or something else is looked at. */
  const ask = useCallback(
    (question: Question, take: (reply: ExplainReply) => void) => {
      if (!model || !picture) return () => undefined;
      const controller = new AbortController();
      const { signal } = controller;
      setRunning((count) => count + 1);
      server
        .explain(model.name, picture.file, question, signal)
        .then((reply) => signal.aborted || take(reply))
        .catch((error: unknown) => signal.aborted || onError(error))
        .finally(() => setRunning((count) => count - 1));
      return () => controller.abort();
    },
    [server, model, picture, onError],
  );
  const maps = Boolean(model?.tokenGrid);

  useEffect(() => {
    setAnswer(null);
    setSilence(null);
    setCausal(new Map());
    setChecking("");
    return ask({ top_k: TOP_LABELS, maps }, (reply) => {
      const { targets } = firstOf(reply);
      const top = targets.map((target) => target.label);
      setAnswer({ reply, top, targets: new Map(targets.map((target) => [target.label, target])) });
      measurePaint();
    });
  }, [ask, maps]);

  const missing = [wanted.label, wanted.against].filter(
    (label, place, all) =>
      answer && model?.labels.includes(label) && !answer.targets.has(label) && all.indexOf(label) === place,
  );
  const missingKey = JSON.stringify(missing);
  useEffect(() => {
    const labels = JSON.parse(missingKey) as string[];
    if (!labels.length) return;
    return ask({ labels, maps }, (reply) => {
      const targets = firstOf(reply).targets.map((target): [string, Target] => [target.label, target]);
      setAnswer((before) => before && { ...before, targets: new Map([...before.targets, ...targets]) });
    });
  }, [ask, maps, missingKey]);

  const heads = wanted.silenced.join(",");
  const labelsKey = JSON.stringify(answer ? [...answer.targets.keys()] : []);
  useEffect(() => {
    const silenced = heads ? heads.split(",") : [];
    const labels = JSON.parse(labelsKey) as string[];
    if (!model?.tokenGrid || !labels.length || !silenced.length) {
      setSilence(null);
      return;
    }
    const rows = model.cards
      .filter((card) => silenced.includes(headId(card.encoder, card.head)))
      .flatMap((card) => (card.row === null ? [] : [card.row]));
    let stop: () => void = () => undefined;
    const timer = setTimeout(() => {
      stop = ask({ labels, silenced_heads: rows }, (reply) => setSilence(silenceOf(silenced, reply)));
    }, CLICK_MILLISECONDS);
    return () => {
      clearTimeout(timer);
      stop();
    };
  }, [ask, model, heads, labelsKey]);

  useEffect(() => {
    if (!checking) return;
    return ask({ labels: [checking], causal: true }, (reply) => {
      setCausal((before) => new Map([...before, [checking, causalOf(reply)]]));
      setChecking("");
    });
  }, [ask, checking]);

  return { answer, silence, causal, isBusy: running > 0, check: setChecking };
}
