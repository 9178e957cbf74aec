/** Which part is looked at: its map's limits in words, and a head's card. */

import type { HeadCard, Model } from "./api";
import { headId, type Part, perCent, signed, total } from "./arithmetic";
import { few } from "./head_grid";
import { Samples } from "./samples";
import type { CausalCheck } from "./use_explanation";

/** What is beside a picture with a map. */
export function MapCaption({ part, map, model }: { part: Part | null; map: number[][] | null; model: Model }) {
  const grid = model.tokenGrid;
  if (!grid) return null;
  if (!map) return <p class="caption">{part ? `${part.name} reads no place: it has no map.` : ""}</p>;
  const { height, width } = model.input;
  const field = grid.receptive_field_pixels;
  const sees = `each square is a token, which sees ${field} × ${field} of the ${height} × ${width} pixels`;
  const mixed =
    part?.encoder === null || part === null
      ? "Later encoders mix tokens, so a square of theirs is not only that place."
      : part.encoder === 0
        ? "This encoder reads tokens that no encoder has mixed yet."
        : `Earlier encoders (${part.encoder}) have mixed these tokens, so a square is not only that place.`;
  return (
    <p class="caption">
      <strong>{part ? part.name : "All parts together"}</strong>: the squares add up to {signed(total(map), 2)}. This is
      an account of the sum, not “the region that matters”; {sees}. {mixed}
    </p>
  );
}

interface CardProps {
  model: Model;
  card: HeadCard | null;
  part: Part | null;
  whole: number | null;
  causal: CausalCheck | null;
  /** That the causal check was made for. */
  label: string;
  /** Address of the picture of all samples; empty without one. */
  sheet: string;
}

/** A head: what it does to this picture, and what it recognises over the data set. */
export function Card({ model, card, part, whole, causal, label, sheet }: CardProps) {
  if (!card || !part) {
    return (
      <p class="card empty">
        Point at a head, or move to it with the keyboard, to see where it looked and what it recognises.
      </p>
    );
  }
  const effect = causal?.effects.get(headId(card.encoder, card.head));
  return (
    <div class="card">
      <h3>{part.name}</h3>
      <dl>
        <dt>In this picture</dt>
        <dd>
          {signed(part.value, 2)} logits{whole !== null && `, ${perCent(part.value, whole)}`}
          {effect !== undefined && `; when it alone is removed, the logit of “${label}” falls by ${signed(effect, 2)}`}
        </dd>
        <dt>Recognises over the data set</dt>
        <dd>
          {card.expertLabels.length
            ? few(card.expertLabels, 12)
            : "no label more than the other heads of its encoder do"}
          <small>
            {" "}
            (n = {card.images} images
            {card.pValue !== null && `; p = ${card.pValue.toFixed(3)} against nodes dealt to heads at random`})
          </small>
        </dd>
        {model.samples && sheet && card.row !== null && (
          <>
            <dt>Added most to the right label of</dt>
            <dd>
              <Samples samples={model.samples} sheet={sheet} row={card.row} />
              <small>
                One picture of a label, of those among {model.samples.images} validation images that the model labels
                rightly.
              </small>
            </dd>
          </>
        )}
      </dl>
      <p class="caption">
        What it recognises is what it tells apart in general. The figure at the top is its direct effect on this
        picture's logit: what later parts make of it counts there.
      </p>
    </div>
  );
}
