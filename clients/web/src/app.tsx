/** The page: a model, pictures, and what is looked at, put together. */

import { useCallback, useEffect, useState } from "preact/hooks";
import type { Model, Server } from "./api";
import { headId } from "./arithmetic";
import { ExplanationView } from "./explanation_view";
import { Foot } from "./foot";
import { Labels } from "./labels";
import { Picker } from "./picker";
import { type Picture, pictureOf } from "./pictures";
import { useSheet } from "./samples";
import { TroubleView } from "./trouble";
import { useExplanation } from "./use_explanation";
import { readView, type View, writeView } from "./view";

function useView(): [View, (change: Partial<View>) => void] {
  const [view, setView] = useState(() => readView(location.hash));
  useEffect(() => {
    const read = () => setView(readView(location.hash));
    addEventListener("hashchange", read);
    return () => removeEventListener("hashchange", read);
  }, []);
  const change = useCallback((changed: Partial<View>) => {
    setView((before) => {
      const after = { ...before, ...changed };
      history.replaceState(null, "", `${location.pathname}${location.search}${writeView(after)}`);
      return after;
    });
  }, []);
  return [view, change];
}

/** What a link asks for that this model does not have. */
function missingOf(model: Model, view: View): string[] {
  const heads = new Set(model.cards.filter((card) => card.row !== null).map((card) => headId(card.encoder, card.head)));
  const labels = [view.label, view.against].filter((label) => label && !model.labels.includes(label));
  const others = [view.head, ...view.silenced].filter((head) => head && !heads.has(head));
  return [...labels.map((label) => `label “${label}”`), ...new Set(others.map((head) => `head ${head}`))];
}

export function App({ server }: { server: Server }) {
  const [view, change] = useView();
  const [names, setNames] = useState<string[]>([]);
  const [model, setModel] = useState<Model | null>(null);
  const [pictures, setPictures] = useState<Picture[]>([]);
  const [current, setCurrent] = useState<Picture | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [attempt, setAttempt] = useState(0);

  // biome-ignore lint/correctness/useExhaustiveDependencies: another attempt asks the same
  useEffect(() => {
    let left = false;
    setModel(null);
    const load = async () => {
      const served = await server.models();
      if (left) return;
      setNames(served);
      const name = view.model || served[0];
      if (!name) throw new Error("The server serves no model yet. Load this page again once it does.");
      const loaded = await server.model(name);
      if (!left) setModel(loaded);
    };
    load().catch((failure: unknown) => left || setError(failure));
    return () => {
      left = true;
    };
  }, [server, view.model, attempt]);

  const sheet = useSheet(server, model);
  const known = (label: string) => (model?.labels.includes(label) ? label : "");
  const missing = model ? missingOf(model, view) : [];
  const silenced = view.silenced.filter((head) => !missing.includes(`head ${head}`));
  const wanted = { label: known(view.label), against: known(view.against), silenced };
  const { answer, silence, causal, isBusy, check } = useExplanation(server, model, current, wanted, setError);
  const label = wanted.label || answer?.top[0] || "";
  const against = wanted.against === label ? "" : wanted.against;
  const shown = { ...view, model: model?.name ?? "", label, against, silenced };

  const onFiles = useCallback((files: { file: Blob; name: string }[]) => {
    setError(null);
    for (const { file, name } of files) {
      try {
        const picture = pictureOf(file, name);
        setPictures((before) => [...before, picture]);
        setCurrent(picture);
      } catch (failure) {
        setError(failure);
      }
    }
  }, []);
  const retry = () => {
    setError(null);
    setAttempt((count) => count + 1);
  };

  return (
    <>
      <header>
        <h1>What spoke for which label</h1>
        <p>
          A model's answer is a sum over its parts. This page shows that sum for your own picture, exactly. It says what
          was added up inside the model, and not whether the model is right.
        </p>
        {names.length > 0 && (
          <label>
            Model
            <select
              value={view.model || names[0]}
              onChange={(event) => {
                setError(null);
                change({ model: event.currentTarget.value, label: "", against: "", head: "", silenced: [] });
              }}
            >
              {!names.includes(view.model) && view.model && <option value={view.model}>{view.model} (not here)</option>}
              {names.map((name) => (
                <option key={name} value={name}>
                  {name}
                </option>
              ))}
            </select>
          </label>
        )}
      </header>
      <main>
        {error !== null && (
          <TroubleView
            error={error}
            onRetry={retry}
            onToken={(token) => {
              server.token = token;
              retry();
            }}
          />
        )}
        {missing.length > 0 && (
          <p class="notice" role="status">
            The link asks for what this model does not have: {missing.join(", ")}. The rest is shown.
          </p>
        )}
        <Picker
          pictures={pictures}
          current={current}
          onFiles={onFiles}
          onSelect={(id) => {
            setError(null);
            setCurrent(pictures.find((picture) => picture.id === id) ?? null);
          }}
          onError={setError}
        />
        <p class="unseen" role="status">
          {isBusy ? "Asking the server" : answer ? `The model says ${answer.top[0]}` : ""}
        </p>
        {model && current && answer?.targets.has(label) && (
          <ExplanationView
            model={model}
            picture={current}
            answer={answer}
            silence={silence}
            causal={causal.get(label) ?? null}
            isBusy={isBusy}
            view={shown}
            onChange={change}
            onCheck={() => check(label)}
            sheet={sheet}
            labels={
              <Labels
                model={model}
                answer={answer}
                silence={silence}
                label={label}
                against={against}
                onLabel={(chosen) => change({ label: chosen, ...(chosen === view.against ? { against: "" } : {}) })}
                onAgainst={(chosen) => change({ label, against: chosen })}
              />
            }
          />
        )}
        {model && !answer && <Invitation model={model} isBusy={isBusy} />}
      </main>
      {answer && model && <Foot model={model} answer={answer} view={shown} />}
    </>
  );
}

/** Before there is a picture: what will be shown, and of which model. */
function Invitation({ model, isBusy }: { model: Model; isBusy: boolean }) {
  if (isBusy) return <p class="notice">Asking the server…</p>;
  const heads = model.cards.filter((card) => card.row !== null).length;
  return (
    <section class="promise" aria-label="What this page shows">
      <p>
        <strong>{model.name}</strong> tells {model.labels.length} labels apart
        {model.accuracy &&
          ` and is right on ${(100 * model.accuracy.value).toFixed(1)} % of ${model.accuracy.images} test images`}
        . Give it a picture, and you see:
      </p>
      <ul>
        <li>which of its {heads} attention heads and other parts spoke for and against each label, and by how much;</li>
        <li>where each head looked, and what it recognises over the data set;</li>
        <li>what becomes of the answer when heads are silenced.</li>
      </ul>
    </section>
  );
}
