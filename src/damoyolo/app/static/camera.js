// Frames of a camera, one at a time: the next is taken when the last has been looked at.

const LONGEST_PX = 1280;

export class Camera {
  #video = document.createElement("video");
  #stream = null;

  get isOn() {
    return this.#stream !== null;
  }

  /** Ask for the camera, and call `look` with a bitmap and a JPEG of each frame until `stop`. */
  async start(look) {
    if (!navigator.mediaDevices) throw new Error("Browsers give cameras to https and localhost only.");
    const wanted = { facingMode: "environment", width: { ideal: LONGEST_PX } };
    this.#stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    this.#video.srcObject = this.#stream;
    this.#video.muted = this.#video.playsInline = true;
    await this.#video.play();
    const canvas = document.createElement("canvas");
    const stream = this.#stream;
    while (this.#stream === stream) {
      const scale = Math.min(1, LONGEST_PX / Math.max(this.#video.videoWidth, this.#video.videoHeight));
      canvas.width = Math.round(this.#video.videoWidth * scale);
      canvas.height = Math.round(this.#video.videoHeight * scale);
      canvas.getContext("2d").drawImage(this.#video, 0, 0, canvas.width, canvas.height);
      const jpeg = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
      const bitmap = await createImageBitmap(canvas);
      if (this.#stream === stream) await look(bitmap, jpeg);
      await new Promise(requestAnimationFrame);
    }
  }

  stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#video.srcObject = null;
  }
}
