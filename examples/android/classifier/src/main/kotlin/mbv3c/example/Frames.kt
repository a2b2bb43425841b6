package mbv3c.example

import android.graphics.Bitmap
import java.nio.ByteBuffer

/** Puts pixels of Android (alpha, red, green, blue in an Int) into a frame as red, green, blue. */
fun putPixels(pixels: IntArray, frame: ByteBuffer) {
    frame.clear()
    for (pixel in pixels) {
        frame.put((pixel shr 16).toByte())
        frame.put((pixel shr 8).toByte())
        frame.put(pixel.toByte())
    }
}

/** Scales a picture to the network's size and returns its best classes, best first. */
fun Network.classify(picture: Bitmap, count: Int = 5): List<Finding> {
    val scaled = Bitmap.createScaledBitmap(picture, width, height, true)
    val pixels = IntArray(width * height)
    scaled.getPixels(pixels, 0, width, 0, 0, width, height)
    val frame = newFrame()
    putPixels(pixels, frame)
    return classify(frame, count)
}
