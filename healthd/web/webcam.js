// The webcam's frames over a WebSocket: at most one at the model and one on its way, so that what is shown is new.
const WIDTH = 640;
const IN_FLIGHT = 2;
const AFTER_AN_ERROR = 1000; // milliseconds

export class Webcam {
  // `wishes()` gives what to ask of each frame; `on` is told: `answer(picture, prediction)`, `error(words)`, `end(words)`.
  constructor(wishes, on) {
    this.wishes = wishes;
    this.on = on;
    this.video = document.createElement("video");
    this.video.muted = this.video.playsInline = true;
    this.canvas = document.createElement("canvas");
    this.sent = new Map(); // frame id -> the frame as it was sent: boxes belong on their own frame
    this.frameId = 0;
    this.notBefore = 0;
    this.ready = this.ended = false;
  }

  async start() {
    if (!navigator.mediaDevices?.getUserMedia) throw new Error("a browser gives its webcam to pages on https or localhost alone");
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: WIDTH }, facingMode: "environment" } });
    this.video.srcObject = stream;
    if (this.ended) return this.release();
    stream.getVideoTracks()[0].addEventListener("ended", () => this.stop("the webcam was switched off"));
    await this.video.play();
    if (this.ended) return this.release();
    const url = new URL("api/v1/ws", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url);
    this.socket.addEventListener("message", (event) => this.hear(JSON.parse(event.data)));
    this.socket.addEventListener("close", (event) => this.stop(event.reason || this.lost()));
    this.follow();
  }

  lost() {
    if (this.ready) return "the connection to healthd was lost";
    return "healthd has refused the WebSocket: too many are open, or a proxy on the way does not let it pass";
  }

  // Why it ended, in words; nothing where somebody wanted it to.
  stop(words = "") {
    if (this.ended) return;
    this.ended = true;
    this.socket?.close(1000);
    this.release();
    this.on.end(words);
  }

  release() {
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    for (const picture of this.sent.values()) picture.close();
    this.sent.clear();
  }

  follow() {
    if (this.ended) return;
    this.send().catch((error) => this.stop(error.message));
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(() => this.follow());
    else setTimeout(() => this.follow(), 33);
  }

  async send() {
    const { videoWidth, videoHeight } = this.video;
    if (!this.ready || this.busy || !videoWidth || this.sent.size >= IN_FLIGHT || performance.now() < this.notBefore) return;
    this.busy = true;
    try {
      const scale = Math.min(1, WIDTH / videoWidth);
      Object.assign(this.canvas, { width: Math.round(videoWidth * scale), height: Math.round(videoHeight * scale) });
      this.canvas.getContext("2d").drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
      const picture = await createImageBitmap(this.canvas);
      const image = this.canvas.toDataURL("image/jpeg", 0.8);
      if (this.ended || this.socket.readyState !== WebSocket.OPEN) return picture.close();
      this.frameId += 1;
      this.sent.set(this.frameId, picture);
      this.socket.send(JSON.stringify({ ...this.wishes(), frame_id: this.frameId, image }));
    } finally {
      this.busy = false;
    }
  }

  hear(message) {
    if (this.ended) return;
    if (message.type === "ready") this.ready = true;
    for (const frameId of message.dropped ?? []) this.forget(frameId);
    if (message.type === "prediction") {
      const { type, frame_id: frameId, dropped, ...envelope } = message;
      const picture = this.sent.get(frameId);
      if (picture) this.on.answer(picture, envelope);
      this.forget(frameId);
    } else if (message.type === "error") {
      this.forget(message.frame_id);
      this.notBefore = performance.now() + AFTER_AN_ERROR;
      this.on.error(message.detail, message);
    }
  }

  forget(frameId) {
    this.sent.get(frameId)?.close();
    this.sent.delete(frameId);
  }
}
