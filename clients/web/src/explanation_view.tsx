/** Everything about the label that is explained. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { Model, Target } from "./api";
import {
  byKind,
  contrast,
  headId,
  type Part,
  partsOf,
  perCent,
  probability,
  signed,
  sum,
  whole,
  wholeMap,
} from "./arithmetic";
import { Causal } from "./causal";
import { HeadGrid, Legend } from "./head_grid";
import { Card, MapCaption } from "./look";
import { PictureView } from "./picture_view";
import type { Picture } from "./pictures";
import type { Answer, CausalCheck, Silence } from "./use_explanation";
import type { View } from "./view";
import { Waterfall } from "./waterfall";
import { WhatIf } from "./what_if";

interface Props {
  model: Model;
  picture: Picture;
  answer: Answer;
  silence: Silence | null;
  causal: CausalCheck | null;
  isBusy: boolean;
  view: View;
  onChange: (change: Partial<View>) => void;
  onCheck: () => void;
  labels: ComponentChildren;
  /** Address of the picture of all heads' samples; empty without one. */
  sheet: string;
}

const KINDS = { head: "attention heads", "feed-forward": "feed-forwards", embedding: "embedding", biases: "biases" };

export function ExplanationView(props: Props) {
  const { model, picture, answer, silence, causal, isBusy, view, onChange, onCheck, labels, sheet } = props;
  const [pointed, setPointed] = useState("");
  const [hasMap, setHasMap] = useState(true);
  const [silences, setSilences] = useState(false);
  const target = answer.targets.get(view.label);
  const other = view.against ? answer.targets.get(view.against) : undefined;
  if (!target) return null;

  const parts = other ? contrast(target, other) : partsOf(target);
  const ofWhole = whole(parts);
  const looked = pointed || view.head;
  const part = parts.find((each) => each.id === looked) ?? null;
  const card = model.cards.find((each) => headId(each.encoder, each.head) === looked) ?? null;
  const map = part ? part.map : wholeMap(parts);

  const toggle = (id: string) =>
    onChange(
      silences
        ? {
            silenced: view.silenced.includes(id) ? view.silenced.filter((each) => each !== id) : [...view.silenced, id],
          }
        : { head: view.head === id ? "" : id },
    );
  const seen = (
    <figure>
      <PictureView
        picture={picture}
        model={model}
        map={hasMap ? map : null}
        of={part ? part.name : "all parts together"}
      />
      <figcaption>
        <MapCaption part={part} map={map} model={model} />
      </figcaption>
    </figure>
  );

  return (
    <div class="columns">
      <div class="side">
        {seen}
        {model.tokenGrid && (
          <label class="switch">
            <input type="checkbox" checked={hasMap} onChange={(event) => setHasMap(event.currentTarget.checked)} />
            <span>
              Show the map: <span class="for-text">■ for</span>, <span class="against-text">▨ against</span>
            </span>
          </label>
        )}
        {labels}
      </div>
      <div class="rest">
        <Summary target={target} other={other} parts={parts} ofWhole={ofWhole} answer={answer} />
        <section aria-labelledby="parts">
          <h2 id="parts">
            {other ? `Why “${target.label}” and not “${other.label}”` : `What spoke for “${target.label}”`}
          </h2>
          <Waterfall
            parts={parts}
            whole={ofWhole}
            totalName={other ? "difference of the logits" : "logit above the mean"}
            looked={looked}
            onLook={setPointed}
          />
        </section>
        <section aria-labelledby="heads">
          <h2 id="heads">Heads</h2>
          <Legend parts={parts} whole={ofWhole} />
          <div class="grid-and-card">
            <HeadGrid
              model={model}
              parts={parts}
              whole={ofWhole}
              looked={looked}
              silenced={view.silenced}
              silences={silences}
              onLook={setPointed}
              onChoose={toggle}
            />
            <div class="beside">
              {model.tokenGrid && <div class="again">{seen}</div>}
              <Card
                model={model}
                card={card}
                part={part}
                whole={ofWhole}
                causal={causal}
                label={target.label}
                sheet={sheet}
              />
            </div>
          </div>
          {model.tokenGrid ? (
            <WhatIf
              target={target}
              firstLabel={answer.top[0] ?? ""}
              silenced={view.silenced}
              silence={silence}
              silences={silences}
              onSilences={setSilences}
              onRestore={() => onChange({ silenced: [] })}
            />
          ) : (
            <p class="notice">
              This bundle has neither maps nor the graph that silences heads: where heads looked and what-if are not
              shown. Export it again to have them.
            </p>
          )}
        </section>
        {model.tokenGrid && target.heads.length > 0 && (
          <Causal
            key={target.label}
            target={target}
            reply={answer.reply}
            check={causal}
            isBusy={isBusy}
            onCheck={onCheck}
          />
        )}
      </div>
    </div>
  );
}

interface SummaryProps {
  target: Target;
  other: Target | undefined;
  parts: Part[];
  ofWhole: number | null;
  answer: Answer;
}

function distance(value: number, above: string, below: string): string {
  return `${Math.abs(value).toFixed(2)} ${value < 0 ? below : above}`;
}

/** What is claimed, in a few lines. */
function Summary({ target, other, parts, ofWhole, answer }: SummaryProps) {
  const isFirst = answer.top[0] === target.label;
  const kinds = byKind(parts).filter(({ parts }) => parts > 0);
  return (
    <section class="summary" aria-label="Summary">
      <p class="claim">
        {isFirst ? "The model says" : `The model says “${answer.top[0]}”, not`} <strong>{target.label}</strong>{" "}
        <span class="number">({probability(target.probability)})</span>
      </p>
      <p>
        {other
          ? `Its logit for “${target.label}” is ${distance(sum(parts), "above", "below")} that for “${other.label}”. `
          : `Its logit for “${target.label}” is ${distance(sum(parts), "above", "below")} the mean of all labels. `}
        {ofWhole === null
          ? "The parts nearly cancel, so shares in per cent would say nothing and are left out: "
          : "Of that, the parts have these shares: "}
        {kinds
          .map(({ kind, value, parts }) => {
            const count = kind === "head" || kind === "feed-forward" ? `${parts} ` : "";
            return `${count}${KINDS[kind]} ${ofWhole === null ? signed(value, 2) : perCent(value, ofWhole)}`;
          })
          .join(", ")}
        .
      </p>
      <details>
        <summary>What are these parts?</summary>
        <p>
          The <em>embedding</em> is the picture as the first layers cut it into tokens. Each encoder then has{" "}
          <em>attention heads</em>, which carry information from token to token, and a <em>feed-forward</em>, which
          works on each token alone. <em>Biases</em> are constants, the same for every picture but for scale. A logit is
          the score from which a label's probability is made.
        </p>
      </details>
      <p class="trust">
        <strong>How far to trust it:</strong> the sum is exact. It counts what each part adds <em>directly</em>; what a
        head does through later parts counts there. Whether removing a head really lowers the logit is another question,
        which the check below answers.
      </p>
    </section>
  );
}
