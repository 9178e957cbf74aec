/** The causal check: what becomes of the logit when each head is removed, beside what the head adds to it directly. */

import { useState } from "preact/hooks";
import type { ExplainReply, Target } from "./api";
import { bySize, headId, headName, signed } from "./arithmetic";
import type { CausalCheck } from "./use_explanation";

const SHOWN = 8;

interface Props {
  target: Target;
  reply: ExplainReply;
  check: CausalCheck | null;
  isBusy: boolean;
  onCheck: () => void;
}

function duration(seconds: number): string {
  return seconds < 1 ? `${Math.max(1, Math.round(1000 * seconds))} ms` : `${seconds.toFixed(1)} s`;
}

export function Causal({ target, reply, check, isBusy, onCheck }: Props) {
  const [all, setAll] = useState(false);
  const heads = target.heads.length;
  const cost = `${heads} more inferences of this picture`;
  const expected = duration(heads * reply.timings.inference_seconds);
  return (
    <section aria-labelledby="causal">
      <h2 id="causal">Does removing a head do what its bar says?</h2>
      {check ? (
        <Result target={target} check={check} shown={all ? heads : SHOWN} />
      ) : (
        <p>
          <button type="button" disabled={isBusy} onClick={onCheck}>
            Remove each head in turn
          </button>{" "}
          <span class="caption">
            Costs {cost}: at most about {expected}.
          </span>
        </p>
      )}
      {check && heads > SHOWN && (
        <button type="button" class="link" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? `Show the largest ${SHOWN} only` : `Show all ${heads} heads`}
        </button>
      )}
    </section>
  );
}

function Result({ target, check, shown }: { target: Target; check: CausalCheck; shown: number }) {
  const rows = target.heads.map((head) => {
    const id = headId(head.encoder, head.head);
    return { id, direct: head.contribution, value: check.effects.get(id) ?? 0 };
  });
  const most = Math.max(...rows.flatMap((row) => [Math.abs(row.direct), Math.abs(row.value)]), Number.MIN_VALUE);
  const { correlation } = check;
  return (
    <>
      <p>
        {correlation === null
          ? "The ranks cannot be correlated: all heads are alike."
          : `Rank correlation of direct contribution and effect over ${rows.length} heads: ${signed(correlation, 2)}.`}{" "}
        <span class="caption">
          1: the heads with the largest bars are those whose removal costs most. Near 0: the bars do not say what
          removal would do. Took {duration(check.seconds)}.
        </span>
      </p>
      <table class="causal">
        <thead>
          <tr>
            <th scope="col">head</th>
            <th scope="col">adds directly to “{target.label}”</th>
            <th scope="col">when removed, “{target.label}” falls by</th>
          </tr>
        </thead>
        <tbody>
          {bySize(rows)
            .slice(0, shown)
            .map((row) => (
              <tr key={row.id}>
                <th scope="row">{headName(row.id)}</th>
                <Value value={row.direct} most={most} />
                <Value value={row.value} most={most} />
              </tr>
            ))}
        </tbody>
      </table>
    </>
  );
}

function Value({ value, most }: { value: number; most: number }) {
  const width = `${(50 * Math.abs(value)) / most}%`;
  return (
    <td>
      <span class="number">{signed(value, 2)}</span>
      <span class="track middle">
        <span
          class={`bar ${value < 0 ? "against" : "for"}`}
          style={value < 0 ? { right: "50%", width } : { left: "50%", width }}
        />
      </span>
    </td>
  );
}
