/** How a picture comes in: chosen, dropped, pasted, or taken with a camera. */

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { filesOf, type Picture } from "./pictures";

interface Props {
  pictures: Picture[];
  current: Picture | null;
  onFiles: (files: { file: Blob; name: string }[]) => void;
  onSelect: (id: number) => void;
  onError: (error: unknown) => void;
}

const named = (file: File) => ({ file, name: file.name || "pasted picture" });

export function Picker({ pictures, current, onFiles, onSelect, onError }: Props) {
  const [over, setOver] = useState(false);
  const [camera, setCamera] = useState(false);
  const closeCamera = useCallback(() => setCamera(false), []);

  useEffect(() => {
    const pasted = (event: ClipboardEvent) => {
      const files = filesOf(event.clipboardData);
      if (files.length) onFiles(files.map(named));
    };
    const dragged = (event: DragEvent) => {
      event.preventDefault(); // a page that lets a drop through is left for the picture
      setOver(event.type === "dragover");
      if (event.type === "drop") onFiles(filesOf(event.dataTransfer).map(named));
    };
    const kinds = ["dragover", "dragleave", "drop"] as const;
    document.addEventListener("paste", pasted);
    for (const kind of kinds) document.addEventListener(kind, dragged);
    return () => {
      document.removeEventListener("paste", pasted);
      for (const kind of kinds) document.removeEventListener(kind, dragged);
    };
  }, [onFiles]);

  return (
    <section class={`picker ${over ? "over" : ""} ${current ? "" : "first"}`} aria-label="Your picture">
      <div class="ways">
        <label class="button">
          <input
            type="file"
            accept="image/*"
            multiple
            onChange={(event) => {
              onFiles([...(event.currentTarget.files ?? [])].map(named));
              event.currentTarget.value = "";
            }}
          />
          Choose pictures
        </label>
        {navigator.mediaDevices && (
          <button type="button" onClick={() => setCamera(true)}>
            Use camera
          </button>
        )}
        <span class="hint">or drop or paste one here. It is sent to this server only.</span>
      </div>
      {pictures.length > 1 && (
        <ul class="strip" aria-label="Pictures">
          {pictures.map((picture) => (
            <li key={picture.id}>
              <button type="button" aria-pressed={picture === current} onClick={() => onSelect(picture.id)}>
                <img src={picture.url} alt={picture.name} />
              </button>
            </li>
          ))}
        </ul>
      )}
      {camera && (
        <Camera
          onPicture={(file) => onFiles([{ file, name: "picture of the camera" }])}
          onClose={closeCamera}
          onError={onError}
        />
      )}
    </section>
  );
}

interface CameraProps {
  onPicture: (file: Blob) => void;
  onClose: () => void;
  onError: (error: unknown) => void;
}

function Camera({ onPicture, onClose, onError }: CameraProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const video = useRef<HTMLVideoElement>(null);
  const [ready, setReady] = useState(false);

  useEffect(() => {
    let stream: MediaStream | null = null;
    let closed = false;
    const stop = () => {
      for (const track of stream?.getTracks() ?? []) track.stop();
    };
    dialog.current?.showModal();
    navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } }).then(
      (opened) => {
        stream = opened;
        if (closed) return stop();
        if (video.current) video.current.srcObject = opened;
      },
      (error: Error) => {
        onError(new Error(`The camera cannot be used: ${error.message}. Choose a picture instead.`));
        onClose();
      },
    );
    return () => {
      closed = true;
      stop();
    };
  }, [onClose, onError]);

  function take() {
    const { current: source } = video;
    if (!source) return;
    const canvas = document.createElement("canvas");
    canvas.width = source.videoWidth;
    canvas.height = source.videoHeight;
    canvas.getContext("2d")?.drawImage(source, 0, 0);
    canvas.toBlob((file) => {
      if (file) onPicture(file);
      onClose();
    }, "image/png");
  }

  return (
    <dialog ref={dialog} onClose={onClose} aria-label="Camera">
      <video ref={video} autoplay playsInline muted onPlaying={() => setReady(true)} />
      <div class="ways">
        <button type="button" disabled={!ready} onClick={take}>
          Take picture
        </button>
        <button type="button" onClick={() => dialog.current?.close()}>
          Cancel
        </button>
      </div>
    </dialog>
  );
}
