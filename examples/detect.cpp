/* Detects things in an image with a raw ONNX file, in C++: OpenVINO runs the network, OpenCV does the rest.
   (ONNX Runtime's Python package brings no C++ headers; OpenCV's own DNN module needs OpenCV 5 for such a file.)

     OV=$(python -c "import openvino; print(openvino.__path__[0])")    # its Python package brings the headers
     g++ -O2 -std=c++17 detect.cpp -o detect -I$OV/include -L$OV/libs -Wl,-rpath,$OV/libs \
         -l:$(ls $OV/libs | grep -m1 '^libopenvino.so') $(pkg-config --cflags --libs opencv4)
     ./detect model.onnx image.jpg [lowest score] [IoU of suppression]

   `damoyolo export model.onnx --weights W` writes such a file: `images` (1, 3, height, width), float RGB
   0..255, in; scores (1, points, classes) and boxes (1, points, 4), corners in pixels of the input, out. The
   image is stretched to the input, as models of damoyolo are trained unless told otherwise. Prints a line for
   each thing found, best first: class, score, left, top, right, bottom in pixels of the image. */
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <openvino/openvino.hpp>
#include <vector>

static int run(int count, char** words) {
    if (count < 3) return std::fprintf(stderr, "usage: %s model.onnx image [score] [iou]\n", words[0]), 2;
    const float lowest = count > 3 ? std::atof(words[3]) : 0.4f, iou = count > 4 ? std::atof(words[4]) : 0.7f;
    const cv::Mat image = cv::imread(words[2]);
    if (image.empty()) return std::fprintf(stderr, "%s: is no image\n", words[2]), 2;

    ov::Core core;
    auto model = core.compile_model(words[1], "CPU", ov::hint::inference_precision(ov::element::f32),
                                    ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
    if (model.inputs().size() != 1 || model.outputs().size() != 2 || model.input().get_partial_shape().is_dynamic() ||
        model.output(0).get_partial_shape().is_dynamic() || model.output(1).get_partial_shape().is_dynamic())
        return std::fprintf(stderr, "%s: needs one input, two outputs and fixed sizes\n", words[1]), 2;
    const ov::Shape shape = model.input().get_shape();
    const ov::Shape given = model.output(0).get_shape(), sides = model.output(1).get_shape();
    if (shape.size() != 4 || shape[0] != 1 || shape[1] != 3 || model.input().get_element_type() != ov::element::f32 ||
        given.size() != 3 || given[0] != 1 || sides != ov::Shape{1, given[1], 4})
        return std::fprintf(stderr, "%s: is no raw file for one float image\n", words[1]), 2;
    cv::Mat resized;
    cv::resize(image, resized, {int(shape[3]), int(shape[2])}, 0, 0, cv::INTER_LINEAR);
    cv::Mat input = cv::dnn::blobFromImage(resized, 1.0, {}, {}, /*swapRB=*/true);
    auto request = model.create_infer_request();
    request.set_input_tensor(ov::Tensor(ov::element::f32, shape, input.ptr<float>()));
    request.infer();

    const ov::Tensor scores = request.get_output_tensor(0), corners = request.get_output_tensor(1);
    const size_t points = scores.get_shape()[1], classes = scores.get_shape()[2];
    const double across = double(image.cols) / resized.cols, down = double(image.rows) / resized.rows;
    const double apart = 10.0 * (image.cols + image.rows);  // boxes of different classes never meet
    std::vector<cv::Rect2d> boxes, shifted;
    std::vector<float> values;
    std::vector<int> labels, kept;
    for (size_t i = 0; i < points * classes; ++i) {
        if (scores.data<const float>()[i] <= lowest) continue;
        const float* box = corners.data<const float>() + 4 * (i / classes);
        const double width = double(box[2]) - box[0], height = double(box[3]) - box[1];
        boxes.emplace_back(across * box[0], down * box[1], across * width, down * height);
        values.push_back(scores.data<const float>()[i]);
        labels.push_back(int(i % classes));
        shifted.push_back(boxes.back() + cv::Point2d(apart * labels.back(), 0));
    }
    cv::dnn::NMSBoxes(shifted, values, lowest, iou, kept);
    for (const int i : kept) {
        const cv::Rect2d box = boxes[i] & cv::Rect2d(0, 0, image.cols, image.rows);
        if (box.width <= 0.01 || box.height <= 0.01) continue;  // outside of the image
        const cv::Point2d end = box.br();
        std::printf("%d %.4f %.2f %.2f %.2f %.2f\n", labels[i], values[i], box.x, box.y, end.x, end.y);
    }
    return 0;
}

int main(int count, char** words) {
    try {
        return run(count, words);
    } catch (const std::exception& error) {
        return std::fprintf(stderr, "%s: cannot be run: %s\n", words[1], error.what()), 2;
    }
}
