package mbv3c.example

import java.nio.ByteBuffer

/** A class that the network found, with its name if the bundle was compiled with `--labels`. */
data class Finding(val number: Int, val score: Float, val label: String?)

/**
 * A network with memory of its own. One thread at a time may use it; threads that work side by side
 * have one each, and share the weights.
 */
class Network : AutoCloseable {
    private var handle = open()
    private val scores = FloatArray(classCount())
    private val shape = frameShape()

    /** Height and width of a frame, in pixels. */
    val height get() = shape[1]
    val width get() = shape[2]

    init {
        if (handle == 0L) throw OutOfMemoryError("not enough memory for the network's arena")
        check(shape.size == 4 && shape[0] == 1 && shape[3] == 3) {
            "the bundle takes frames of ${shape.joinToString("x")}; compile it with --input-layout nhwc"
        }
    }

    /** Returns a buffer for one frame: rows of pixels, three bytes each, in the bundle's order. */
    fun newFrame(): ByteBuffer = ByteBuffer.allocateDirect(height * width * 3)

    /** Returns the best classes, best first; the frame is read from its beginning to its end. */
    @Synchronized
    fun classify(frame: ByteBuffer, count: Int = 5): List<Finding> {
        check(handle != 0L) { "the network was closed" }
        when (val code = run(handle, frame, scores)) {
            0 -> Unit
            -100 -> throw IllegalArgumentException("the frame is no direct buffer; take newFrame()")
            -101 -> throw IllegalArgumentException(
                "the frame has ${frame.capacity()} bytes, not ${height * width * 3}",
            )
            else -> throw IllegalStateException("network_run returned $code")
        }
        return scores.indices.sortedByDescending { scores[it] }.take(count).map {
            Finding(it, scores[it], label(it)?.toString(Charsets.UTF_8))
        }
    }

    @Synchronized
    override fun close() {
        if (handle != 0L) close(handle)
        handle = 0L
    }

    private companion object {
        init {
            System.loadLibrary("classifier")
        }

        @JvmStatic
        external fun open(): Long

        @JvmStatic
        external fun close(handle: Long)

        @JvmStatic
        external fun frameShape(): IntArray

        @JvmStatic
        external fun classCount(): Int

        @JvmStatic
        external fun label(number: Int): ByteArray?

        @JvmStatic
        external fun run(handle: Long, frame: ByteBuffer, scores: FloatArray): Int
    }
}
