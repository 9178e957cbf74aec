/** What gave the answer, and how exactly its parts add up. */

import { useState } from "preact/hooks";
import type { Model } from "./api";
import type { Answer } from "./use_explanation";
import { type View, writeView } from "./view";

export function Foot({ model, answer, view }: { model: Model; answer: Answer; view: View }) {
  const { model: served, explanations, completeness_tolerance: tolerance, timings } = answer.reply;
  const residual = explanations[0]?.completeness_residual ?? Number.NaN;
  const facts: [string, string][] = [
    ["Model", `${served.name}, version ${served.version}`],
    ["Engine", `${served.engine}, ${served.precision}`],
    ["Parts miss the logit by", `${residual.toExponential(1)} at most (refused above ${tolerance.toExponential(0)})`],
    ["Inference", `${(1000 * timings.inference_seconds).toFixed(1)} ms`],
    ["Bundle", served.sha256.slice(0, 12)],
  ];
  if (model.accuracy) {
    const { value, low, high, images } = model.accuracy;
    const per = (share: number) => (100 * share).toFixed(1);
    facts.push(["Test accuracy", `${per(value)} % (95 %: ${per(low)}–${per(high)}, n = ${images})`]);
  }
  return (
    <footer>
      <dl>
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <CopyLink view={view} />
    </footer>
  );
}

function CopyLink({ view }: { view: View }) {
  const [said, setSaid] = useState("");
  const copy = () =>
    navigator.clipboard
      ? navigator.clipboard.writeText(new URL(writeView(view), location.href).href).then(
          () => setSaid("Copied. The link has the view, and not the picture."),
          () => setSaid("The browser does not allow it: copy the address of this page."),
        )
      : setSaid("Copy the address of this page: it has the view, and not the picture.");
  return (
    <p>
      <button type="button" onClick={copy}>
        Copy a link to this view
      </button>{" "}
      <span role="status">{said}</span>
    </p>
  );
}
